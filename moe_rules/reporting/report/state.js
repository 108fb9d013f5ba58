// What is shown: the state of all controls and the open cell, and the address that says the same.

// Every part of the state with its value by default, which the address leaves out.
export function initialState(report) {
  const { deployments } = report.raw;
  const first = deployments[0];
  return {
    model: 0,
    tp: first.tp,
    dp: first.dp,
    ep: false,
    all2all: deployments.find((one) => one.all2all !== null)?.all2all ?? "",
    request: "auto",
    search: "",
    machine: "",
    scheme: "",
    backend: "",
    only: "",
    open: "",
    layer: 0,
    side: "after",
  };
}

export function toHash(state, initial) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== initial[name]) said.set(name, String(value));
  }
  return said.toString();
}

// The state that an address says, as far as this report has it.
export function fromHash(hash, initial) {
  const state = { ...initial };
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!Object.hasOwn(initial, name)) continue;
    const usual = initial[name];
    if (typeof usual === "number") state[name] = Number.parseInt(text, 10) || 0;
    else state[name] = typeof usual === "boolean" ? text === "true" : text;
  }
  return state;
}

// The deployment of the switches. Sizes that were not computed together: the nearest that were.
export function deploymentOf(report, state) {
  const { deployments } = report.raw;
  const found = deployments.findIndex(
    (one) =>
      one.tp === state.tp &&
      one.dp === state.dp &&
      one.ep === state.ep &&
      (one.all2all === null || one.all2all === state.all2all),
  );
  if (found >= 0) return found;
  return Math.max(
    deployments.findIndex((one) => one.tp === state.tp && one.dp === state.dp && !one.ep),
    0,
  );
}

export function deploymentInWords(deployment) {
  const words = [];
  if (deployment.tp !== 1) words.push(`tp ${deployment.tp}`);
  if (deployment.dp !== 1) words.push(`dp ${deployment.dp}`);
  if (deployment.ep) words.push("ep");
  if (deployment.all2all !== null) words.push(deployment.all2all);
  return words.length ? words.join(", ") : "one device";
}
