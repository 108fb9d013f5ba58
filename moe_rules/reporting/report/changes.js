// What a change of the rules decides otherwise, in all deployments that were computed.

import { h } from "./dom.js";
import { cellKey } from "./grid.js";
import { toHash } from "./state.js";
import { answersOf, viewOf } from "./views.js";

// Cells, requests and deployments by what was decided before and what is now, the most first.
function changesOf(report) {
  const found = new Map();
  for (const cell of report.raw.cells) {
    for (const request of Object.keys(cell.after)) {
      if (cell.before[request] === cell.after[request]) continue;
      report.raw.deployments.forEach((_, deployment) => {
        const [before, after] = ["before", "after"].map((side) =>
          answersOf(viewOf(report, cell, side, deployment, request)),
        );
        if (before === after) return;
        const key = `${before} → ${after}`;
        if (!found.has(key)) found.set(key, { before, after, count: 0, cells: new Map() });
        const change = found.get(key);
        change.count += 1;
        if (!change.cells.has(cell)) change.cells.set(cell, { request, deployment });
      });
    }
  }
  return [...found.values()].sort((a, b) => b.count - a.count);
}

function addressOf(report, cell, { request, deployment }, initial) {
  const { tp, dp, ep, all2all } = report.raw.deployments[deployment];
  const exchange = all2all ?? initial.all2all;
  const open = cellKey(report, cell);
  return `#${toHash({ ...initial, model: cell.model, tp, dp, ep, all2all: exchange, request, open }, initial)}`;
}

// The cell, and what was asked for by name in it, where that is what differs.
function nameOf(report, cell, { request }) {
  const model = report.raw.models[cell.model].name;
  const name = `${model} ${report.schemeName(cell.scheme)} on ${report.raw.machines[cell.machine].name}`;
  return request === "auto" ? name : `${name}, asked for ${request}`;
}

const SHOWN = 12;

export function changesSection(report, initial) {
  if (!report.raw.before) return null;
  const changes = changesOf(report);
  const { before, after } = report.raw;
  const states = changes.reduce((sum, one) => sum + one.count, 0);
  const title = changes.length
    ? `${after.name} decides ${states} deployment${states > 1 ? "s" : ""} otherwise than ${before.name}`
    : `${after.name} and ${before.name} decide all deployments of this report alike`;
  if (!changes.length) return h("p", { class: "changes" }, title);
  const item = (change) =>
    h(
      "li",
      {},
      h("span", { class: "was" }, change.before),
      h("span", { "aria-hidden": "true" }, " → "),
      h("span", { class: "unseen" }, " became "),
      h("b", {}, change.after),
      h("small", {}, ` ${change.count} deployment${change.count > 1 ? "s" : ""}: `),
      [...change.cells].slice(0, 6).map(([cell, where], i) => [
        i ? "; " : "",
        h("a", { href: addressOf(report, cell, where, initial) }, nameOf(report, cell, where)),
      ]),
      change.cells.size > 6 ? h("small", {}, ` and ${change.cells.size - 6} more cells`) : null,
    );
  return h(
    "details",
    { class: "block changes", open: true },
    h("summary", {}, title),
    h("ul", {}, changes.slice(0, SHOWN).map(item)),
    changes.length > SHOWN ? h("p", {}, `and ${changes.length - SHOWN} more kinds of changes`) : null,
  );
}
