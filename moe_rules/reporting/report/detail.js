// The explanation of one cell: what was decided and why, and what speaks against everything else.

import { tokenRanges, measuredTimes } from "./chart.js";
import { h } from "./dom.js";
import { deploymentInWords } from "./state.js";
import { OWN_CODE, answerOf, answersOf, commandOf, statusOf, subjectOf, viewOf } from "./views.js";

function placeLink(place) {
  if (!place) return null;
  const attributes = { class: "place", title: place.full };
  if (!place.href) return h("span", attributes, place.short);
  return h("a", { ...attributes, href: place.href, rel: "noreferrer" }, place.short);
}

function section(title, ...children) {
  return h("section", {}, h("h3", {}, title), children);
}

function lines(texts, attributes = {}) {
  return texts.length ? h("ul", attributes, texts.map((text) => h("li", {}, text))) : null;
}

function chain(names, selected) {
  if (!names.length) return h("p", {}, "none");
  const item = (name) =>
    name === selected
      ? h("li", {}, h("span", { class: "selected" }, name, h("span", { class: "unseen" }, " (selected)")))
      : h("li", {}, h("span", {}, name));
  return h("ol", { class: "chain" }, names.map(item));
}

function quirk(text) {
  return text ? h("p", { class: "quirk" }, h("b", {}, "Quirk: "), text) : null;
}

// The decision ------------------------------------------------------------------------------

const HOW = {
  auto: "by the order of backends",
  requested: "asked for by name",
  switch: "by a switch",
  shortcut: "by a shortcut",
  fallback: "for nothing else serves",
};

// As a sentence; names in it stay as they are.
function sentence(text) {
  const first = /^[a-z]+[ ,]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

function answerParts(found, layer) {
  const parts = [];
  if (found.backend === null) {
    const text = found.how === "requested" ? "what was asked for cannot serve" : "nothing serves";
    parts.push(h("p", { class: "answer none" }, `✕ ${text}`));
  } else if (found.kernel === null && found.how === "fallback") {
    parts.push(h("p", { class: "answer none" }, `✕ no kernel (backend ${found.backend}): the layer is loaded, and nothing runs it`));
  } else {
    const kernel = found.kernel ?? OWN_CODE;
    parts.push(h("p", { class: "answer" }, h("b", {}, found.backend), " ", h("code", {}, kernel)));
  }
  const why = found.why ?? found.because;
  const how = HOW[found.how] ?? found.how;
  const text = found.error ? found.error.split("\n")[0] : (why?.text ?? how);
  parts.push(h("p", { class: "why" }, sentence(text), " ", placeLink(why?.at)));
  parts.push(h("p", { class: "how" }, `Oracle ${layer.oracle}, ${how}.`));
  if (found.requested) {
    const { key, backend, at } = found.requested;
    parts.push(h("p", {}, `Requested by ${key ?? "a rule"}: ${backend ?? ""} ${at ?? ""}`));
  }
  parts.push(quirk(found.because?.quirk));
  return parts;
}

function alerts(layer, found) {
  return [
    lines(layer.loadRefusals.map((text) => `Will not load: ${text}`), { class: "alerts bad" }),
    found && lines(found.warnings.map((text) => `Warning: ${text}`), { class: "alerts" }),
    lines(layer.notes, { class: "alerts note" }),
  ];
}

// The order ---------------------------------------------------------------------------------

function adjustmentInWords(change) {
  const names = change.backends.join(", ");
  if (change.anchor !== null) return `move ${names} ${change.action} ${change.anchor}`;
  return `${change.action}: ${names}`;
}

function orderSection(found) {
  const gone = new Set([...found.order, ...found.removed.map((one) => one.backend)]);
  const others = found.priority.filter((name) => !gone.has(name));
  const changes = [
    ...found.adjusted.map((change) =>
      h(
        "li",
        {},
        h("b", {}, adjustmentInWords(change)),
        change.because ? `, because ${change.because} ` : " ",
        placeLink(change.at),
        quirk(change.quirk),
      ),
    ),
    ...found.removed.map((one) =>
      h("li", {}, h("b", {}, `without ${one.backend}`), one.because ? `: ${one.because} ` : " ", placeLink(one.at)),
    ),
    ...others.map((name) => h("li", {}, h("b", {}, `without ${name}`), ": another variant is asked for")),
  ];
  const same = found.priority.join() === found.order.join();
  return section(
    "Order",
    changes.length || !same ? [h("p", { class: "label" }, "The table's priority"), chain(found.priority)] : null,
    changes.length ? [h("p", { class: "label" }, "What changes it here"), h("ul", { class: "changes" }, changes)] : null,
    h("p", { class: "label" }, changes.length || !same ? "What is tried, in this order" : "As the table has it"),
    chain(found.order, found.backend),
  );
}

// Candidates --------------------------------------------------------------------------------

function failureItem(failure) {
  if (!failure.alternatives.length) {
    return h(
      "li",
      {},
      h("code", {}, failure.fact),
      " is ",
      h("b", {}, failure.seen),
      ", wanted ",
      h("b", {}, failure.wanted),
      " ",
      h("small", {}, `[${failure.code}] `),
      placeLink(failure.at),
    );
  }
  return h(
    "li",
    {},
    "none of these holds ",
    h("small", {}, `[${failure.code}] `),
    placeLink(failure.at),
    h(
      "ul",
      {},
      failure.alternatives.map((all) =>
        all.length > 1
          ? h("li", {}, "all of these", h("ul", {}, all.map(failureItem)))
          : all.map(failureItem),
      ),
    ),
  );
}

const VERDICTS = { selected: "✓", eligible: "○", rejected: "✗" };

function verdictInWords(one) {
  if (one.verdict === "selected") return "selected";
  if (one.verdict === "eligible") return one.reached ? "could serve" : "could serve, stands behind";
  const count = one.failures.length;
  return `cannot serve: ${count} clause${count > 1 ? "s" : ""} failed`;
}

function candidateItem(one) {
  const unknown = one.unknown.length ? h("p", {}, `unknown: ${one.unknown.join(", ")}`) : null;
  const summary = [
    h("span", { class: `verdict ${one.verdict}`, "aria-hidden": "true" }, VERDICTS[one.verdict]),
    h("b", {}, one.backend),
    h("code", {}, one.kernel),
    h("span", { class: "said" }, verdictInWords(one), one.reached ? "" : " (not reached)"),
  ];
  if (!one.failures.length && !unknown) {
    return h("div", { class: "candidate" }, h("div", { class: "line" }, summary, placeLink(one.at)));
  }
  return h(
    "details",
    { class: "candidate", open: one.reached && one.verdict === "rejected" },
    h("summary", { class: "line" }, summary),
    h("div", { class: "clauses" }, lines([]), h("ul", {}, one.failures.map(failureItem)), unknown, h("p", {}, "The kernel: ", placeLink(one.at))),
  );
}

function candidatesSection(found) {
  const none = "The decision fell before any kernel was asked.";
  const all = found.candidates;
  return section(`Candidates (${all.length})`, all.length ? all.map(candidateItem) : h("p", {}, none));
}

// Facts, command, JSON ------------------------------------------------------------------------

function inWords(value) {
  if (value === null) return "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function namesIn(failures) {
  return failures.flatMap((one) =>
    one.alternatives.length ? one.alternatives.flatMap(namesIn) : [one.fact],
  );
}

function factsSection(report, layer, found) {
  const facts = report.facts(layer.groups);
  const decided = new Set(found.candidates.flatMap((one) => namesIn(one.failures)));
  const names = Object.keys(facts);
  const rows = [...names.filter((one) => decided.has(one)), ...names.filter((one) => !decided.has(one))];
  return h(
    "details",
    { class: "block" },
    h("summary", {}, `Facts (${names.length})`),
    h(
      "table",
      { class: "facts" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "fact"), h("th", { scope: "col" }, "value"))),
      h(
        "tbody",
        {},
        rows.map((name) =>
          h(
            "tr",
            { class: decided.has(name) ? "decided" : null },
            h("th", { scope: "row" }, name, decided.has(name) ? h("small", {}, " decided against a kernel") : null),
            h("td", {}, inWords(facts[name])),
          ),
        ),
      ),
    ),
    found.unknownFacts.length ? h("p", {}, `Unknown: ${found.unknownFacts.join(", ")}.`) : null,
  );
}

// Copies a text; where the browser does not let a page do that, the text is selected for the user.
async function copy(text, node, status) {
  try {
    await navigator.clipboard.writeText(text);
    status.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(node);
    status.textContent = "selected: copy it";
  }
}

function commandSection(command) {
  if (command === null) {
    return section("The same by command", h("p", {}, "These rules are a git revision: check it out, and explain there."));
  }
  const code = h("code", {}, command);
  const status = h("span", { role: "status" });
  const button = h("button", { type: "button", onclick: () => copy(command, code, status) }, "Copy");
  return section("The same by command", h("div", { class: "command" }, h("pre", {}, code), button, status));
}

function jsonSection(explained) {
  const pre = h("pre", { class: "json", tabindex: "0", "aria-label": "explain as JSON" });
  const details = h("details", { class: "block", id: "json" }, h("summary", {}, "As explain prints it in JSON"), pre);
  details.addEventListener("toggle", () => {
    if (details.open) pre.textContent = JSON.stringify(explained(), null, 2);
  });
  return details;
}

// The whole -----------------------------------------------------------------------------------

function layersInWords(runs) {
  const words = [];
  for (let i = 0; i < runs.length; i += 2) {
    words.push(runs[i] === runs[i + 1] ? `${runs[i]}` : `${runs[i]}-${runs[i + 1]}`);
  }
  return words.length ? `layers ${words.join(", ")}` : "";
}

function comparison(report, cell, state, deployment, onChange) {
  if (!report.raw.before) return null;
  const [before, after] = ["before", "after"].map((side) => ({
    side,
    name: report.raw[side].name,
    view: viewOf(report, cell, side, deployment, state.request),
  }));
  const changed = answersOf(before.view) !== answersOf(after.view);
  const part = ({ side, name, view }) =>
    h(
      "button",
      {
        type: "button",
        class: "side",
        "aria-pressed": String(state.side === side),
        onclick: () => onChange({ side }),
      },
      h("small", {}, `${side}: ${name}`),
      view.layers.length
        ? view.layers.map((one) =>
            h("span", { class: "pair" }, h("b", {}, one.backend ?? answerOf(one)), one.kernel ? h("code", {}, one.kernel) : null),
          )
        : h("b", {}, statusOf(view).text),
    );
  return h(
    "div",
    { class: `sides ${changed ? "changed" : ""}`, role: "group", "aria-label": "Before and after" },
    part(before),
    h("span", { class: "arrow", "aria-hidden": "true" }, changed ? "→" : "="),
    part(after),
    h("p", { class: "hint" }, changed ? "The rules decide otherwise. Choose whose explanation is below." : "Both decide alike."),
  );
}

function kindsOfLayers(outcome, state, onChange) {
  if (outcome.layers.length < 2) return null;
  return h(
    "div",
    { class: "kinds", role: "group", "aria-label": "Kinds of layers" },
    outcome.layers.map((layer, i) =>
      h(
        "button",
        { type: "button", "aria-pressed": String(i === state.layer), onclick: () => onChange({ layer: i }) },
        layersInWords(layer.indices),
      ),
    ),
  );
}

// Of a request that fails, the least change is to ask for another backend.
// It takes its time, so that a report has it of the first deployment and of those decided with it.
function nearestSection(report, found) {
  if (found.backend !== null || found.how === "requested") return null;
  const first = deploymentInWords(report.raw.deployments[0]);
  return section(
    "Nearest: the least change after which a backend serves",
    lines(found.nearest, { class: "changes" }) ??
      h("p", {}, `This report has it for ${first}; explain says it for this deployment.`),
  );
}

function body(report, cell, state, deployment, outcome, layer) {
  if (outcome.refused) {
    return [h("p", { class: "answer none" }, "⊘ vLLM refuses the checkpoint here"), h("p", {}, outcome.refused)];
  }
  if (outcome.invalid) {
    return [h("p", { class: "answer none" }, "⊘ it cannot be deployed so"), h("p", {}, outcome.invalid)];
  }
  if (outcome.unknown) {
    return [
      h("p", { class: "answer none" }, `? no request “${outcome.unknown}” here`),
      h("p", {}, `The oracle of this format takes: ${Object.keys(cell[state.side]).join(", ")}.`),
    ];
  }
  if (layer.decision === null) {
    return [h("p", { class: "answer none" }, "– no oracle is asked"), alerts({ ...layer, notes: [] }, null), lines(layer.notes)];
  }
  const found = report.decision(layer.decision);
  const number = report.raw.cells.indexOf(cell);
  const measured = report.raw.measured.filter((one) =>
    one.states.some(([at, where]) => at === number && where === deployment),
  );
  return [
    h("div", { class: "decision" }, answerParts(found, layer)),
    alerts(layer, found),
    found.error
      ? h("details", { class: "block" }, h("summary", {}, "The error in full"), h("pre", { tabindex: "0" }, found.error))
      : null,
    nearestSection(report, found),
    orderSection(found),
    candidatesSection(found),
    found.byNumTokens.length ? section("By number of tokens", tokenRanges(found.byNumTokens)) : null,
    measured.map((one) =>
      section(`Measured: ${one.shape}, ${one.scheme}, ${one.routing} routing on ${one.device}`, measuredTimes(one)),
    ),
    factsSection(report, layer, found),
  ];
}

export function detailOf(report, cell, state, deployment, onChange) {
  const side = report.raw.before ? state.side : "after";
  const outcome = report.outcome(cell, side, deployment, state.request);
  const kind = Math.min(state.layer, Math.max(outcome.layers.length - 1, 0));
  const layer = outcome.layers[kind];
  const machine = report.raw.machines[cell.machine];
  const layers = layer ? layersInWords(layer.indices) : "";
  const title = `${report.schemeName(cell.scheme)} on ${machine.name}`;
  const hasAnswer = !outcome.unknown && outcome.layers.length > 0;
  return [
    h(
      "header",
      {},
      h("h2", { tabindex: "-1" }, title),
      h("button", { type: "button", class: "close", onclick: () => onChange({ open: "" }) }, "Close"),
      h("p", {}, [subjectOf(report, cell, deployment, state.request), layers].filter(Boolean).join(", ")),
      h("p", { class: "machine" }, machine.record.source ?? ""),
    ),
    comparison(report, cell, state, deployment, onChange),
    kindsOfLayers(outcome, { ...state, layer: kind }, onChange),
    body(report, cell, { ...state, side }, deployment, outcome, layer),
    outcome.unknown ? null : commandSection(commandOf(report, cell, side, deployment, state.request)),
    hasAnswer ? jsonSection(() => report.explained(cell, side, deployment, state.request)) : null,
  ];
}
