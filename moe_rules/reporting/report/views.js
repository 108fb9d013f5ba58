// A cell as the table shows it, and the command that gives the same answer.

import { deploymentInWords } from "./state.js";

const STATUS = {
  none: { mark: "✕", text: "nothing serves" },
  no_kernel: { mark: "✕", text: "no kernel runs it" },
  no_oracle: { mark: "–", text: "no oracle asked" },
  refused: { mark: "⊘", text: "not loaded" },
  invalid: { mark: "⊘", text: "not deployable so" },
  unknown: { mark: "?", text: "no such request" },
};

export const OWN_CODE = "the platform's own code";

// Kinds of cells in which no kernel runs the layers.
export const NOTHING = ["none", "no_kernel"];

function viewOfLayer(report, layer) {
  if (layer.decision === null) return { kind: "no_oracle", backend: null, kernel: null };
  const result = report.result(layer.decision);
  if (result.backend === null) return { kind: "none", backend: null, kernel: null };
  if (result.kernel === null && result.how === "fallback") {
    return { kind: "no_kernel", backend: null, kernel: null };
  }
  return { kind: "served", backend: result.backend, kernel: result.kernel ?? OWN_CODE };
}

// What stands in a cell: that of its first kind of layers, and whether others differ.
export function viewOf(report, cell, side, deployment, request) {
  const outcome = report.outcome(cell, side, deployment, request);
  for (const kind of ["refused", "invalid", "unknown"]) {
    if (outcome[kind]) return { kind, backend: null, kernel: null, layers: [], others: 0 };
  }
  const layers = outcome.layers.map((layer) => viewOfLayer(report, layer));
  const [first] = layers;
  const others = layers.filter((one) => answerOf(one) !== answerOf(first)).length;
  const willNotLoad = outcome.layers.some((layer) => layer.loadRefusals.length > 0);
  return { ...first, layers, others, willNotLoad };
}

// Two views with the same answer decide alike.
export function answerOf(view) {
  return view.kind === "served" ? `${view.backend} / ${view.kernel}` : STATUS[view.kind].text;
}

export function answersOf(view) {
  return view.layers.length ? view.layers.map(answerOf).join("; ") : answerOf(view);
}

export function statusOf(view) {
  return STATUS[view.kind];
}

export function familyOf(report, view) {
  return view.backend === null ? null : (report.raw.families[view.backend] ?? "Other");
}

function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`;
}

// The command that explains the same, or null where these rules cannot be named to one.
export function commandOf(report, cell, side, deployment, request) {
  const { models, machines, schemes, deployments } = report.raw;
  const rules = report.raw[side];
  if (rules.arguments === null) return null;
  const { tp, dp, ep, all2all } = deployments[deployment];
  const scheme = schemes[cell.scheme];
  const words = ["moe-rules", "explain", "--model", models[cell.model].argument];
  if (scheme !== null) words.push("--scheme", scheme);
  words.push("--machine", machines[cell.machine].name);
  if (tp !== 1) words.push("--tp", String(tp));
  if (dp !== 1) words.push("--dp", String(dp));
  if (ep) words.push("--ep");
  if (all2all !== null) words.push("--all2all", all2all);
  if (request !== "auto") words.push("--moe-backend", request);
  return [...words, ...report.raw.arguments, ...rules.arguments].map(quoted).join(" ");
}

export function subjectOf(report, cell, deployment, request) {
  const words = [report.raw.models[cell.model].name, deploymentInWords(report.raw.deployments[deployment])];
  if (request !== "auto") words.push(`asked for ${request}`);
  return words.join(", ");
}
