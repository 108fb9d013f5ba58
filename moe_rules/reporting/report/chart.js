// Charts: what serves calls of each size, and measured times over the floor.

import { h, svg } from "./dom.js";

const WIDTH = 560;
const MOST = 16384;

const sizeOf = (range) =>
  range.last === null ? `${range.first} tokens or more` : `${range.first} to ${range.last} tokens`;

// A bar in which each range of calls has its part, by powers of two.
export function tokenRanges(ranges) {
  const x = (tokens) => (Math.log2(Math.max(tokens, 1)) / Math.log2(MOST)) * WIDTH;
  const parts = ranges.map((range, i) => {
    const from = x(range.first);
    const to = range.last === null ? WIDTH : x(range.last + 1);
    return [
      svg("rect", { x: from, y: 0, width: Math.max(to - from - 1, 1), height: 22, class: `part-${i % 2}` }),
      svg("text", { x: from + 4, y: 15 }, range.backend ?? "nothing"),
    ];
  });
  const ticks = [1, 16, 256, 4096].map((n) => svg("text", { x: x(n), y: 38, class: "tick" }, String(n)));
  return h(
    "figure",
    {},
    svg("svg", { viewBox: `0 0 ${WIDTH} 42`, "aria-hidden": "true" }, parts, ticks),
    h(
      "ul",
      {},
      ranges.map((range) =>
        h("li", {}, `${sizeOf(range)}: ${range.backend ?? "nothing serves"}`, range.kernel ? ` / ${range.kernel}` : ""),
      ),
    ),
  );
}

const HEIGHT = 220;
const LEFT = 36;

// Time over the least that any kernel could take, by number of tokens; and the same as a table.
export function measuredTimes(layer) {
  const kernels = [...new Set(layer.points.map((one) => one.kernel))];
  const tokens = [...new Set(layer.points.map((one) => one.num_tokens))].sort((a, b) => a - b);
  const ratio = (point) => point.us / point.floor_us;
  const most = Math.max(2, ...layer.points.map(ratio));
  const x = (n) => LEFT + (tokens.indexOf(n) / Math.max(tokens.length - 1, 1)) * (WIDTH - LEFT - 28);
  const y = (value) => 8 + (1 - Math.log(value) / Math.log(most)) * (HEIGHT - 36);
  const lines = kernels.map((kernel, i) => {
    const own = layer.points
      .filter((one) => one.kernel === kernel)
      .sort((a, b) => a.num_tokens - b.num_tokens);
    const path = own.map((one) => `${x(one.num_tokens)},${y(Math.max(ratio(one), 1))}`).join(" ");
    const dots = own.map((one) =>
      svg("circle", { cx: x(one.num_tokens), cy: y(Math.max(ratio(one), 1)), r: 3, class: `line-${i % 6}` }),
    );
    return [svg("polyline", { points: path, class: `line-${i % 6}`, fill: "none" }), dots];
  });
  const levels = [1, 1.5, 2, 3, 5, 10, 20, 50].filter((value) => value <= most);
  const axis = levels.map((value) => [
    svg("line", { x1: LEFT, x2: WIDTH - 8, y1: y(value), y2: y(value), class: "level" }),
    svg("text", { x: 2, y: y(value) + 4, class: "tick" }, `${value}×`),
  ]);
  const ticks = tokens.map((n) =>
    svg("text", { x: x(n), y: HEIGHT - 8, class: "tick", "text-anchor": "middle" }, String(n)),
  );
  const point = (kernel, n) =>
    layer.points.find((one) => one.kernel === kernel && one.num_tokens === n);
  const rows = tokens.map((n) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, String(n)),
      kernels.map((kernel) => {
        const found = point(kernel, n);
        return h("td", {}, found ? `${found.us.toFixed(1)} µs, ${ratio(found).toFixed(2)}×` : "");
      }),
    ),
  );
  const names = kernels.map((kernel, i) =>
    h("th", { scope: "col" }, h("span", { class: `swatch line-${i % 6}`, "aria-hidden": "true" }), kernel),
  );
  return h(
    "figure",
    { class: "times" },
    h("figcaption", {}, "Time over the least that any kernel could take, by number of tokens"),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" }, axis, lines, ticks),
    h(
      "div",
      { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Measured times" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "tokens"), names)),
        h("tbody", {}, rows),
      ),
    ),
  );
}
