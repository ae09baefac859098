"""Find the seed that shows each deliberate bug: `python -m tests.simulations.find_seeds [NAME ...]`.

A change of the code moves every history a little, so this is run when the mutation test complains after one.
The kept seed is tried first, then 1 to `SEEDS_MAX`. A seed counts if one of the mutation's own checkers finds
the bug, and the same history without the bug holds: else it would show something else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from simulations.scenario import run_scenario
from tests.simulations.mutations import MUTATIONS, SEEDS_FILE, SEEDS_MAX, Mutation, kept_seeds

HEADER = """\
# Of each mutation, the seed that shows it. Written by `python -m tests.simulations.find_seeds`.
"""


def shows(mutation: Mutation, seed: int) -> bool:
    """Whether a checker of the mutation finds it with this seed, and finds nothing without it."""
    result = mutation.run(seed)
    if not result.violations or result.violations[0].checker not in mutation.checkers:
        return False
    honest = run_scenario(mutation.scenario, seed, brief=True)
    if not honest.ok:
        print(
            f"  {mutation.scenario.name} seed {seed} fails without the bug: {honest.violations[0]}",
            flush=True,
        )
    return honest.ok


def find(mutation: Mutation, kept: int | None) -> int | None:
    """The first seed that shows it, or None."""

    def candidates() -> Iterator[int]:
        if kept is not None:
            yield kept
        yield from (seed for seed in range(1, SEEDS_MAX + 1) if seed != kept)

    return next((seed for seed in candidates() if shows(mutation, seed)), None)


def main(names: Sequence[str]) -> int:
    """Write what was found; 1 if some bug was not."""
    seeds = kept_seeds() if SEEDS_FILE.exists() else {}
    missing = []
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        seed = find(mutation, seeds.get(mutation.name))
        print(f"{mutation.name}: {'none' if seed is None else f'seed {seed}'}", flush=True)
        if seed is None:
            missing.append(mutation.name)
        else:
            seeds[mutation.name] = seed
    known = [mutation.name for mutation in MUTATIONS if mutation.name in seeds]
    SEEDS_FILE.write_text(HEADER + "".join(f'"{name}" = {seeds[name]}\n' for name in known))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
