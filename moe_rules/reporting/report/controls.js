// The controls: switches of the deployment, and what of the table is shown.

import { h } from "./dom.js";

function labelled(label, control) {
  return h("label", {}, h("span", {}, label), control);
}

function choice(name, options, state, onChange, parse = String) {
  const select = h(
    "select",
    { name, onchange: () => onChange({ [name]: parse(select.value) }) },
    options.map(([value, text]) =>
      h("option", { value, selected: String(value) === String(state[name]) }, text),
    ),
  );
  return select;
}

const distinct = (values) => [...new Set(values)];

export function controlsOf(report, state, onChange) {
  const { deployments, models, machines, requests } = report.raw;
  const alike = deployments.filter((one) => one.tp === state.tp && one.dp === state.dp);
  const exchanges = distinct(deployments.map((one) => one.all2all)).filter((one) => one !== null);
  const number = (text) => Number.parseInt(text, 10);
  const sizes = (name) => distinct(deployments.map((one) => one[name])).map((n) => [n, n]);
  const parallel = h("input", {
    type: "checkbox",
    name: "ep",
    checked: state.ep,
    disabled: !alike.some((one) => one.ep),
    onchange: () => onChange({ ep: parallel.checked }),
  });
  const exchange = choice("all2all", exchanges.map((one) => [one, one]), state, onChange);
  exchange.disabled = !(state.ep && alike.some((one) => one.all2all !== null));
  const deployment = h(
    "fieldset",
    {},
    h("legend", {}, "Deployment"),
    labelled("model", choice("model", models.map((one, i) => [i, one.name]), state, onChange, number)),
    labelled("tp", choice("tp", sizes("tp"), state, onChange, number)),
    labelled("dp", choice("dp", sizes("dp"), state, onChange, number)),
    h("label", { class: "check" }, parallel, h("span", {}, "expert parallel")),
    exchanges.length ? labelled("exchange of tokens", exchange) : null,
    labelled("backend asked for", choice("request", requests.map((one) => [one, one]), state, onChange)),
  );

  const search = h("input", {
    type: "search",
    name: "search",
    value: state.search,
    placeholder: "kernel, machine, …",
    oninput: () => onChange({ search: search.value }),
  });
  const schemes = report.raw.schemes.map((_, i) => report.schemeName(i));
  const backends = distinct(
    report.raw.results.map((one) => report.text(one.backend)).filter((name) => name !== null),
  ).sort();
  const any = (values) => [["", "all"], ...values.map((one) => [one, one])];
  const only = [["", "everything"], ["none", "where nothing serves"]];
  if (report.raw.before) only.push(["changed", "what changed"]);
  const shown = h(
    "fieldset",
    {},
    h("legend", {}, "Show"),
    labelled("search", search),
    labelled("machine", choice("machine", any(machines.map((one) => one.name)), state, onChange)),
    labelled("format", choice("scheme", any(schemes), state, onChange)),
    labelled("backend", choice("backend", any(backends), state, onChange)),
    labelled("only", choice("only", only, state, onChange)),
    h("button", { type: "button", class: "reset", onclick: () => onChange(null) }, "Reset"),
  );
  return [deployment, shown];
}
