// Puts the page together, and shows the state that the address says.

import { measuredTimes } from "./chart.js";
import { changesSection } from "./changes.js";
import { controlsOf } from "./controls.js";
import { Report } from "./data.js";
import { detailOf } from "./detail.js";
import { byId, h } from "./dom.js";
import { cellsShown, familyClass, gridOf } from "./grid.js";
import { deploymentInWords, deploymentOf, fromHash, initialState, toHash } from "./state.js";
import { NOTHING, familyOf } from "./views.js";

const report = new Report(byId("data"));
const initial = initialState(report);
let state = fromHash(location.hash, initial);

// Where a state names what this report does not have, what it has by default.
function settled(wanted) {
  const next = { ...wanted };
  if (!report.raw.models[next.model]) next.model = initial.model;
  if (!report.raw.requests.includes(next.request)) next.request = initial.request;
  if (!["before", "after"].includes(next.side)) next.side = initial.side;
  const deployment = report.raw.deployments[deploymentOf(report, next)];
  next.tp = deployment.tp;
  next.dp = deployment.dp;
  next.ep = deployment.ep;
  if (deployment.all2all !== null) next.all2all = deployment.all2all;
  return next;
}

function change(changes) {
  const before = state.open;
  const model = changes && "model" in changes;
  state = settled(changes === null ? { ...initial, model: state.model } : { ...state, ...changes });
  if (changes && ("open" in changes || model)) state.layer = 0;
  const hash = toHash(state, initial);
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  show();
  if (state.open && state.open !== before) byId("detail").querySelector("h2")?.focus();
  else if (before && !state.open) buttonOf(before)?.focus();
}

function buttonOf(key) {
  return [...document.querySelectorAll("[data-cell]")].find((one) => one.dataset.cell === key);
}

// Replaces what is in a part of the page; the control of the same name keeps the focus.
function replace(id, ...nodes) {
  const part = byId(id);
  const active = part.contains(document.activeElement) ? document.activeElement : null;
  const at = active?.selectionStart;
  const scrolled = [part.scrollLeft, part.scrollTop];
  const same = (one) =>
    (active?.name && one.name === active.name) ||
    (active?.dataset?.cell && one.dataset.cell === active.dataset.cell) ||
    (active?.className && one.className === active.className && one.textContent === active.textContent);
  part.replaceChildren(...nodes.flat(Infinity).filter((one) => one !== null && one !== undefined));
  [part.scrollLeft, part.scrollTop] = scrolled;
  if (!active) return;
  const next = [...part.querySelectorAll("input, select, button")].find(same);
  next?.focus({ preventScroll: true });
  if (next?.type === "search") next.setSelectionRange(at, at);
}

function legend(shown) {
  const visible = shown.filter((one) => one.shown);
  const names = new Set(visible.map((one) => familyOf(report, one.view)));
  return report.raw.family_names.filter((name) => names.has(name)).map((name) =>
    h("li", {}, h("span", { class: `swatch ${familyClass(report, name)}`, "aria-hidden": "true" }), name),
  );
}

function counted(shown) {
  const visible = shown.filter((one) => one.shown);
  const count = (kinds) => visible.filter((one) => kinds.includes(one.view.kind)).length;
  const parts = [
    [count(["served"]), "served"],
    [count(NOTHING), "with nothing that serves"],
    [count(["no_oracle"]), "without an oracle"],
    [count(["refused", "invalid"]), "not loaded"],
    [count(["unknown"]), "without such a request"],
    [visible.filter((one) => one.changed).length, "changed"],
  ].filter(([number]) => number);
  const all = parts.map(([number, text]) => `${number} ${text}`).join(", ");
  const cells = visible.length === shown.length ? `${shown.length} cells` : `${visible.length} of ${shown.length} cells`;
  return `${report.raw.models[state.model].name}, ${deploymentInWords(report.raw.deployments[deploymentOf(report, state)])}: ${cells}${all ? `; ${all}` : ""}.`;
}

function show() {
  const deployment = deploymentOf(report, state);
  const shown = cellsShown(report, state, deployment);
  replace("controls", controlsOf(report, state, change));
  byId("summary").textContent = counted(shown);
  replace("legend", legend(shown));
  replace("grid", gridOf(report, state, shown, (key) => change({ open: state.open === key ? "" : key })));
  const open = shown.find((one) => one.key === state.open);
  const detail = byId("detail");
  detail.hidden = !open;
  document.body.classList.toggle("opened", Boolean(open));
  settleReach();
  const key = open ? `${state.model} ${state.open}` : "";
  replace("detail", open ? detailOf(report, open.cell, state, deployment, change) : []);
  if (detail.dataset.shows !== key) detail.scrollTop = 0;
  detail.dataset.shows = key;
}

// On narrow screens the explanation covers everything else, which then is out of reach.
const narrow = matchMedia("(max-width: 60rem)");

function settleReach() {
  const covered = narrow.matches && !byId("detail").hidden;
  for (const part of document.querySelectorAll("body > header, .skip, #controls, #overview")) {
    part.inert = covered;
  }
}

function measuredSection() {
  if (!report.raw.measured.length) return null;
  return h(
    "details",
    { class: "block" },
    h("summary", {}, `Measured layers (${report.raw.measured.length}): times over the least possible`),
    report.raw.measured.map((one) =>
      h(
        "section",
        {},
        h("h2", {}, `${one.shape}, ${one.scheme}, ${one.routing} routing on ${one.device}`),
        h("p", {}, one.pick ? `vLLM picks ${one.pick}.` : ""),
        measuredTimes(one),
      ),
    ),
  );
}

function about() {
  const { after, before, moe_rules } = report.raw;
  const rules = before ? `${after.name}, compared with ${before.name}` : after.name;
  return `Which kernel serves each layer, and why, by moe-rules ${moe_rules} with these rules: ${rules}. Choose a cell for its whole explanation; the address keeps what is shown.`;
}

byId("about").textContent = about();
replace("changes", changesSection(report, initial));
replace("measured", measuredSection());
byId("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => {
  state = settled(fromHash(location.hash, initial));
  show();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.open) change({ open: "" });
  if (event.key === "/" && !event.target.closest("input, select, textarea")) {
    event.preventDefault();
    document.querySelector("input[type=search]").focus();
  }
});
narrow.addEventListener("change", settleReach);
state = settled(state);
show();
