// The table of machines and checkpoint formats.

import { breakable, h } from "./dom.js";
import { NOTHING, answerOf, answersOf, familyOf, statusOf, viewOf } from "./views.js";

// The class that gives a family its colour.
export function familyClass(report, family) {
  return `family-${report.raw.family_names.indexOf(family)}`;
}

export function cellKey(report, cell) {
  return `${report.schemeName(cell.scheme)}@${report.raw.machines[cell.machine].name}`;
}

// Every cell of the chosen model with its view, and whether the filters let it through.
export function cellsShown(report, state, deployment) {
  const wanted = state.search.trim().toLowerCase().split(/\s+/).filter(Boolean);
  return report.raw.cells
    .filter((cell) => cell.model === state.model)
    .map((cell) => {
      const view = viewOf(report, cell, "after", deployment, state.request);
      const before = report.raw.before
        ? viewOf(report, cell, "before", deployment, state.request)
        : null;
      const changed = before !== null && answersOf(before) !== answersOf(view);
      const scheme = report.schemeName(cell.scheme);
      const machine = report.raw.machines[cell.machine].name;
      const words = `${scheme} ${machine} ${answersOf(view)} ${familyOf(report, view) ?? ""}`;
      const shown =
        wanted.every((word) => words.toLowerCase().includes(word)) &&
        (!state.machine || state.machine === machine) &&
        (!state.scheme || state.scheme === scheme) &&
        (!state.backend || view.layers.some((one) => one.backend === state.backend)) &&
        (state.only !== "none" || NOTHING.includes(view.kind)) &&
        (state.only !== "changed" || changed);
      return { cell, view, before, changed, scheme, machine, shown, key: cellKey(report, cell) };
    });
}

function content(view) {
  if (view.kind !== "served") {
    const { mark, text } = statusOf(view);
    return [h("span", { class: "mark", "aria-hidden": "true" }, mark), h("span", {}, text)];
  }
  return [h("b", {}, breakable(view.backend)), h("small", {}, breakable(view.kernel))];
}

function badges(one) {
  const found = [];
  if (one.changed) {
    const { backend, kernel } = one.before;
    const was = backend === null ? answerOf(one.before) : backend === one.view.backend ? kernel : backend;
    found.push(h("span", { class: "badge changed" }, "was ", breakable(was)));
  }
  if (one.view.others) {
    found.push(h("span", { class: "badge" }, `+${one.view.others} other kind of layer`));
  }
  if (one.view.willNotLoad) found.push(h("span", { class: "badge warning" }, "will not load"));
  return found;
}

// Arrow keys move in the table; one cell of it is reached by Tab.
function onKey(event) {
  const here = event.target.closest("td");
  if (!here) return;
  const row = here.parentElement;
  const column = [...row.children].indexOf(here);
  const rows = [...row.parentElement.children];
  const index = rows.indexOf(row);
  const target = {
    ArrowRight: () => row.children[column + 1],
    ArrowLeft: () => row.children[column - 1],
    ArrowDown: () => rows[index + 1]?.children[column],
    ArrowUp: () => rows[index - 1]?.children[column],
    Home: () => row.children[1],
    End: () => row.lastElementChild,
  }[event.key]?.();
  const button = target?.querySelector("button");
  if (!button) return;
  event.preventDefault();
  const table = here.closest("table");
  for (const one of table.querySelectorAll("button")) one.tabIndex = -1;
  button.tabIndex = 0;
  button.focus();
}

export function gridOf(report, state, shown, onOpen) {
  const visible = shown.filter((one) => one.shown);
  const machines = [...new Set(visible.map((one) => one.cell.machine))].sort((a, b) => a - b);
  const schemes = [...new Set(visible.map((one) => one.cell.scheme))].sort((a, b) => a - b);
  if (!visible.length) return h("p", { class: "nothing" }, "No cell is what the filters ask for.");
  const byPlace = new Map(shown.map((one) => [`${one.cell.scheme} ${one.cell.machine}`, one]));
  const focused = visible.find((one) => one.key === state.open) ?? visible[0];
  const cellOf = (one) => {
    if (!one.shown) return h("td", { class: "filtered", "aria-label": "filtered out" });
    const family = familyOf(report, one.view);
    const classes = [one.view.kind, family && familyClass(report, family), one.changed && "changed"];
    const button = h(
      "button",
      {
        type: "button",
        tabindex: one === focused ? "0" : "-1",
        "aria-current": one.key === state.open ? "true" : null,
        "data-cell": one.key,
        onclick: () => onOpen(one.key),
      },
      h("span", { class: "unseen" }, `${one.scheme} on ${one.machine}: `),
      content(one.view),
      badges(one),
    );
    return h("td", { class: classes.filter(Boolean).join(" ") }, button);
  };
  const format = report.raw.models[state.model].format;
  const head = machines.map((machine) =>
    h("th", { scope: "col" }, report.raw.machines[machine].name),
  );
  const rows = schemes.map((scheme) => {
    const name = report.raw.schemes[scheme];
    const title = name ?? ["as published", h("small", {}, format)];
    const cells = machines.map((machine) => cellOf(byPlace.get(`${scheme} ${machine}`)));
    return h("tr", {}, h("th", { scope: "row" }, title), cells);
  });
  return h(
    "table",
    { role: "grid", "aria-label": "Backends by checkpoint format and machine", onkeydown: onKey },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "format"), head)),
    h("tbody", {}, rows),
  );
}
