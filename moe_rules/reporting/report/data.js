// The report's data with its tables looked up: cells, decisions, and what explain says as JSON.

function read(block) {
  return JSON.parse(block.textContent);
}

// The last two components of a path, and the line.
function shortPlace(file, line) {
  const name = file.split("/").slice(-2).join("/");
  return line ? `${name}:${line}` : name;
}

export class Report {
  constructor(block) {
    this.raw = read(block);
    this.inRepository = new Set(this.raw.in_repository);
    this.expanded = new Map();
    this.cellsByPlace = new Map(
      this.raw.cells.map((cell) => [`${cell.model} ${cell.scheme} ${cell.machine}`, cell]),
    );
  }

  cell(model, scheme, machine) {
    return this.cellsByPlace.get(`${model} ${scheme} ${machine}`);
  }

  schemeName(scheme) {
    return this.raw.schemes[scheme] ?? "as published";
  }

  text(position) {
    return position === undefined ? null : this.raw.strings[position];
  }

  texts(positions) {
    return (positions ?? []).map((position) => this.raw.strings[position]);
  }

  place(position) {
    if (position === undefined) return null;
    const [file, line, column] = this.raw.places[position];
    const path = this.raw.strings[file];
    const { repository } = this.raw;
    return {
      full: [path, ...(line ? [line] : []), ...(line && column ? [column] : [])].join(":"),
      short: shortPlace(path, line),
      href:
        repository && this.inRepository.has(path)
          ? `${repository}/${path}${line ? `#L${line}` : ""}`
          : null,
    };
  }

  // The entry of a list of runs for one deployment.
  at(runs, deployment) {
    let values = this.expanded.get(runs);
    if (!values) {
      values = [];
      const flat = this.raw.runs[runs];
      for (let i = 0; i < flat.length; i += 2) {
        for (let n = 0; n < flat[i + 1]; n++) values.push(flat[i]);
      }
      this.expanded.set(runs, values);
    }
    return values[deployment];
  }

  // What comes of a cell: {refused}, {invalid}, {unknown} (no such request) or {layers}.
  outcome(cell, side, deployment, request) {
    const answers = this.raw.answers[cell[side][request]];
    if (!answers) return { unknown: request, layers: [] };
    const outcome = this.raw.outcomes[this.at(answers.outcomes, deployment)];
    if (outcome.refused !== undefined) return { refused: this.text(outcome.refused), layers: [] };
    if (outcome.invalid !== undefined) return { invalid: this.text(outcome.invalid), layers: [] };
    const facts = this.raw.facts[this.at(answers.facts, deployment)];
    const layers = outcome.layers.map((layer, kind) => ({
      indices: layer.layers,
      oracle: this.text(layer.oracle),
      notes: this.texts(layer.notes),
      loadRefusals: this.texts(layer.load_refusals),
      decision: answers.decisions[kind] === undefined
        ? null
        : this.at(answers.decisions[kind], deployment),
      groups: [...answers.fixed, ...facts[kind]],
    }));
    return { layers };
  }

  // What was decided, in short.
  result(position) {
    const result = this.raw.results[this.raw.decisions[position][0]];
    return {
      how: this.text(result.how),
      backend: this.text(result.backend),
      kernel: this.text(result.kernel),
      because: this.reason(result.because),
      why: this.reason(result.why),
    };
  }

  reason(position) {
    if (position === undefined) return null;
    const reason = this.raw.reasons[position];
    return {
      text: this.text(reason.text),
      at: this.place(reason.at),
      quirk: this.text(reason.quirk),
    };
  }

  decision(position) {
    const [, standingId, asked, more] = this.raw.decisions[position];
    const standing = this.raw.standings[standingId];
    const order = this.raw.orders[standing.order];
    const result = this.result(position);
    const error = more.error ? this.texts(more.error).join("\n") : null;
    return {
      ...result,
      error,
      requested: more.requested ?? null,
      priority: this.texts(order.priority),
      order: this.texts(order.order),
      adjusted: (order.adjusted ?? []).map((one) => ({
        action: this.text(one.action),
        backends: this.texts(one.backends),
        anchor: this.text(one.anchor),
        because: this.text(one.because),
        quirk: this.text(one.quirk),
        at: this.place(one.at),
      })),
      removed: (order.removed ?? []).map((one) => ({
        backend: this.text(one.backend),
        because: this.text(one.because),
        at: this.place(one.at),
      })),
      candidates: this.candidates(asked, standing.weighed ?? [], error ? null : result.backend),
      warnings: this.texts(more.warnings),
      unknownFacts: this.texts(more.unknown_facts),
      byNumTokens: more.by_num_tokens ?? [],
      nearest: this.texts(more.nearest),
    };
  }

  // Those that were asked, up to the kernel that is selected, then the rest of the order.
  candidates(asked, standing, backend) {
    const names = new Set(asked.map((one) => this.raw.weighed[one].backend));
    const rest = standing.filter((one) => !names.has(this.raw.weighed[one].backend));
    const all = [...asked.map((one) => [one, true]), ...rest.map((one) => [one, false])];
    return all.flatMap(([position, reached]) => {
      const weighed = this.raw.weighed[position];
      const name = this.text(weighed.backend);
      let done = false;
      return weighed.kernels.map((kernel) => {
        const failures = (kernel.failures ?? []).map((one) => this.failure(one));
        const chosen = reached && !done && name === backend && failures.length === 0;
        const candidate = {
          backend: name,
          kernel: this.text(kernel.kernel),
          verdict: chosen ? "selected" : failures.length ? "rejected" : "eligible",
          reached: reached && !done,
          failures,
          unknown: this.texts(kernel.unknown),
          at: this.place(kernel.at),
        };
        done = done || chosen;
        return candidate;
      });
    });
  }

  failure(position) {
    const failure = this.raw.failures[position];
    return {
      code: this.text(failure.code),
      fact: this.text(failure.fact),
      seen: this.text(failure.seen),
      wanted: this.text(failure.wanted),
      at: this.place(failure.at),
      alternatives: (failure.alternatives ?? []).map((all) => all.map((one) => this.failure(one))),
    };
  }

  facts(groups) {
    const facts = Object.assign({}, ...groups.map((group) => this.raw.fact_groups[group]));
    return Object.fromEntries(Object.keys(facts).sort().map((name) => [name, facts[name]]));
  }

  layerIndices(runs) {
    const indices = [];
    for (let i = 0; i < runs.length; i += 2) {
      for (let index = runs[i]; index <= runs[i + 1]; index++) indices.push(index);
    }
    return indices;
  }

  // What `moe-rules explain --format json` prints: one answer, or a list by kind of layer.
  explained(cell, side, deployment, request) {
    const { layers } = this.outcome(cell, side, deployment, request);
    const answers = layers.map((layer) => this.explainedLayer(cell, side, layer));
    return answers.length === 1 ? answers[0] : answers;
  }

  explainedLayer(cell, side, layer) {
    const machine = this.raw.machines[cell.machine].record;
    const about = {
      model: this.raw.models[cell.model].name,
      layers: this.layerIndices(layer.indices),
      machine,
    };
    const besides = { notes: layer.notes, load_refusals: layer.loadRefusals };
    if (layer.decision === null) {
      const nothing = { oracle: null, backend: null, kernel: null, error: null };
      return { ...about, ...nothing, ...besides, by_num_tokens: [] };
    }
    const found = this.decision(layer.decision);
    const at = (part) => ({ ...part, at: part.at.full });
    const failure = ({ alternatives, ...rest }) => ({
      ...at(rest),
      ...(alternatives.length ? { alternatives: alternatives.map((all) => all.map(failure)) } : {}),
    });
    return {
      ...about,
      version: this.raw.format_version,
      oracle: layer.oracle,
      platform: machine.platform.device,
      backend: found.backend,
      kernel: found.kernel,
      how: found.how,
      because: found.because && {
        text: found.because.text,
        at: found.because.at.full,
        quirk: found.because.quirk,
      },
      requested: found.requested,
      error: found.error,
      priority: found.priority,
      order: found.order,
      adjusted: found.adjusted.map(at),
      removed: found.removed.map(at),
      candidates: found.candidates.map((one) => ({
        ...at(one),
        failures: one.failures.map(failure),
      })),
      warnings: found.warnings,
      unknown_facts: found.unknownFacts,
      facts: this.facts(layer.groups),
      rules: this.raw[side].fingerprints[cell.machine],
      ...besides,
      by_num_tokens: found.byNumTokens,
    };
  }
}
