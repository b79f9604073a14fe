"""What a text can do after a stage and could not do before: each ability that a claim speaks of is tried."""

from __future__ import annotations

from migrator.codemod import CachedDecoding
from migrator.prove.bench import Bench
from migrator.prove.decoding import check_decoding
from migrator.rewrite.plan import Stage


def prove_abilities(bench: Bench, stage: Stage) -> None:
    """Decoding first, because a loop that uses it can't be right without it."""
    for ability in dict.fromkeys(ability for claim in stage.claims for ability in claim.abilities):
        if isinstance(ability, CachedDecoding):
            check_decoding(bench, stage, ability)
