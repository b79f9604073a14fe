"""What a text can do after a stage and could not do before: each ability that a claim speaks of is tried."""

from __future__ import annotations

from migrator.codemod import CachedDecoding, CachedGeneration, Checkpointing
from migrator.prove.bench import Bench
from migrator.prove.checkpointing import check_checkpointing
from migrator.prove.decoding import check_decoding
from migrator.prove.generation import check_generation
from migrator.rewrite.plan import Stage


def prove_abilities(bench: Bench, stage: Stage) -> None:
    """Decoding first, because a loop that uses it can't be right without it."""
    abilities = list(dict.fromkeys(ability for claim in stage.claims for ability in claim.abilities))
    for ability in abilities:
        if isinstance(ability, CachedDecoding):
            check_decoding(bench, stage, ability)
    for ability in abilities:
        if isinstance(ability, CachedGeneration) and not bench.ledger.failed:
            check_generation(bench, stage, ability)
        elif isinstance(ability, Checkpointing):
            check_checkpointing(bench, stage, ability)
