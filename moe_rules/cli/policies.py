"""Proves the policies of files and folders, each of the rules that it lies beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from moe_rules.analysis.policies import Policy, policies_of
from moe_rules.analysis.proving import Verdict, name_problems, prove
from moe_rules.cli.errors import UserError
from moe_rules.cli.rule_paths import (
    below,
    existing,
    overlay_of,
    rule_options,
    rule_set_of,
    shown,
    yaml_files,
)
from moe_rules.cli.witness import explain_command
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Problem, RuleFileError
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.reading import vocabulary
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import POLICIES, load_platform, rule_files, vocabulary_files
from moe_rules.reporting import Case, Report
from moe_rules.vocabulary.table_names import PLATFORMS

FOLDER = "policies"
"""Where a rule set has its policies."""


def prove_files(paths: Iterable[Path], overlays: Sequence[Path]) -> Report:
    """Prove the policies at ``paths``, the packaged ones if there are none.

    ``overlays`` come before the rules beside a file. Raises UserError where there is no policy,
    RuleFileError where the rules themselves are wrong.
    """
    known: dict[tuple[Path | None, tuple[Path, ...]], dict[str, PlatformRules]] = {}
    files: list[str] = []
    cases: list[Case] = []
    wrong: list[Problem] = []
    proofs = 0
    for path in [existing(path) for path in paths] or [packaged_rules() / FOLDER]:
        for file in _policy_files(path):
            name = shown(file)
            files.append(name)
            root, applied = _beside(file, path, overlays)
            if (root, applied) not in known:
                known[root, applied] = {
                    name: load_platform(name, applied, packaged=root) for name in PLATFORMS
                }
            rules = known[root, applied]
            try:
                words = vocabulary(vocabulary_files(applied, packaged=root))
                policies = policies_of(read_yaml(file, display=name), words)
            except RuleFileError as error:
                wrong += error.problems
                continue
            for policy in policies:
                problems = list(name_problems(policy, rules))
                if not problems:
                    verdicts = [
                        (rules[platform], oracle, prove(policy, rules[platform], oracle))
                        for platform in policy.platforms
                        for oracle in policy.oracles
                        if oracle in rules[platform].oracles
                    ]
                    problems = list(_problems(policy, verdicts, applied))
                    proofs += sum(verdict.met and verdict.proven for _, _, verdict in verdicts)
                cases.append(Case(policy.name, name, tuple(problems)))
    proven = sum(not case.problems for case in cases)
    counted = f"{proven} proven, in {proofs} proofs, one for each oracle of a platform"
    found = [*wrong, *(problem for case in cases for problem in case.problems)]
    return Report.of(
        found,
        files,
        command="prove",
        examples=tuple(cases),
        called=("policy", "policies"),
        remark=counted if cases else "",
    )


def _policy_files(path: Path) -> list[Path]:
    """The file, or the files of policies of a folder. Raises UserError where there is none."""
    if not path.is_dir():
        return [path]
    found = [file for file in yaml_files(path) if file.stem.endswith(POLICIES)]
    if not found:
        raise UserError(f"{path}: the folder has no file of policies (*{POLICIES}.yaml)")
    return found


def _beside(
    file: Path, path: Path, overlays: Sequence[Path]
) -> tuple[Path | None, tuple[Path, ...]]:
    """The rule set (None: the packaged one) and the overlays that a file's policies are about."""
    root = rule_set_of(path)
    own = overlay_of(file, path if path.is_dir() else path.parent, root)
    given = {file.resolve() for overlay in overlays for file in rule_files(overlay)}
    if own is None or all(beside.resolve() in given for beside in rule_files(own)):
        return root, tuple(overlays)
    return root, (*overlays, *below(own, root), own)


def _problems(
    policy: Policy,
    verdicts: Sequence[tuple[PlatformRules, str, Verdict]],
    overlays: Sequence[Path],
) -> Iterator[Problem]:
    if not any(verdict.met for _, _, verdict in verdicts):
        message = f"{policy.name}: no deployment that can be is one of its deployments"
        yield Problem("empty-policy", message, policy.location, "warning")
    for rules, oracle, verdict in verdicts:
        if verdict.witness is None:
            continue
        what = f"{verdict.answer} comes out"
        if policy.same_as:
            what += f", and {verdict.other} with the other facts"
        see = explain_command(rules.platform, oracle, verdict.witness, rule_options(overlays))
        message = f"{policy.name}: not so for {oracle} on {rules.platform}: {what}; see: {see}"
        yield Problem("contradicted", message, policy.location)
