"""Shares groups among ranks, and cuts a rank's rows into passes of similar cost within the token limit.

The costliest remaining item goes to the rank or pass with the least cost so far (longest processing time first,
Graham 1969). Balance matters because ranks wait for each other at the end of every update, and under ZeRO-3
in every layer of every pass.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ssr1_rl.trainer.batches.rows import Row, by_prompt, packed_tokens
from ssr1_rl.types import TrainGroup

Item = TypeVar("Item")

GroupCost = Callable[[TrainGroup], float]
"""Cost of a group, in operations; see `PassCost`."""


def share_minibatches(
    groups: Sequence[TrainGroup], num_minibatches: int, num_ranks: int, cost: GroupCost
) -> list[list[list[TrainGroup]]]:
    """Cuts groups into mini-batches in their order, then shares each among the ranks: [rank][mini-batch] -> groups.

    So the groups of an update do not depend on the number of ranks.
    """
    size = len(groups) // num_minibatches
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    return [list(shares) for shares in zip(*(share_groups(part, num_ranks, cost) for part in parts), strict=True)]


def share_groups(groups: Sequence[TrainGroup], num_ranks: int, cost: GroupCost) -> list[list[TrainGroup]]:
    """Shares groups among ranks, at least one each. Groups of cost 0 go to the rank with the fewest groups."""
    assert len(groups) >= num_ranks, "the configuration checks that there is a group for every rank"
    return share_evenly(groups, num_ranks, cost)


def share_evenly(items: Sequence[Item], num_ranks: int, cost: Callable[[Item], float]) -> list[list[Item]]:
    """Shares items among ranks. Items of cost 0 go to the rank with the fewest items."""
    shares: list[list[Item]] = [[] for _ in range(num_ranks)]
    costs = [0.0] * num_ranks
    for item in sorted(items, key=cost, reverse=True):
        of_item = cost(item)
        loads = [(costs[r], len(shares[r])) if of_item else (len(shares[r]), costs[r]) for r in range(num_ranks)]
        rank = min(range(num_ranks), key=loads.__getitem__)
        shares[rank].append(item)
        costs[rank] += of_item
    return shares


def rows_to_train(rows: Sequence[Row], keep_all: bool) -> list[Row]:
    """Drops rows without a gradient: empty or masked responses, and (unless `keep_all`) advantages of 0.

    Advantages of 0 still count in the loss's denominator, so the gradient is exactly that of all rows. If any row is
    in the loss, at least one is kept, so that the rank has a pass to run.
    """
    in_loss = [row for row in rows if row.response and row.in_loss]
    kept = [row for row in in_loss if keep_all or any(row.advantages)]
    return kept or in_loss[:1]


def counts_of_loss(rows: Sequence[Row]) -> tuple[int, int]:
    """The tokens of the rows that are in the loss, and the number of rows, masked ones included."""
    return sum(row.num_loss_tokens for row in rows), len(rows)


def response_lengths(group: TrainGroup) -> tuple[int, ...]:
    """Tokens of each non-empty response."""
    return tuple(len(response) for response in group.responses if response)


def trained_lengths(group: TrainGroup, keep_all: bool) -> tuple[int, ...]:
    """Tokens of each response that has a gradient, by the rules of `rows_to_train`."""
    num_responses = len(group.responses)
    mask_G = group.loss_mask_G or (True,) * num_responses
    advantages = group.token_advantages or [(advantage,) for advantage in group.advantages_G]
    return tuple(
        len(response)
        for response, in_loss, values in zip(group.responses, mask_G, advantages, strict=True)
        if response and in_loss and (keep_all or any(values))
    )


def cut_parts(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Groups rows by prompt, and splits larger groups than `max_tokens` into parts, each with the whole prompt."""
    return [part for of_prompt in by_prompt(rows) for part in _cut(of_prompt, packed_tokens, max_tokens)]


def cut_padded(items: Iterable[Item], length: Callable[[Item], int], max_tokens: int) -> Iterator[list[Item]]:
    """Batches items of similar length: as many as `max_tokens` allows with padding, but at least one."""
    longest_first = sorted(items, key=length, reverse=True)
    return _cut(longest_first, lambda batch: len(batch) * length(batch[0]), max_tokens)


def _cut(items: Iterable[Item], size: Callable[[list[Item]], int], most: int) -> Iterator[list[Item]]:
    """Cuts items, in order, into parts of at most size `most`, but at least one item."""
    part: list[Item] = []
    for item in items:
        if part and size([*part, item]) > most:
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def pack_tightly(parts: Sequence[list[Row]], max_tokens: int) -> list[list[Row]]:
    """Packs parts into few passes of at most `max_tokens` (or one larger part): first fit decreasing."""
    passes: list[list[Row]] = []
    rooms: list[int] = []
    for part in sorted(parts, key=packed_tokens, reverse=True):
        size = packed_tokens(part)
        index = next((i for i, room in enumerate(rooms) if size <= room), len(passes))
        if index == len(passes):
            passes.append([])
            rooms.append(max_tokens)
        passes[index] += part
        rooms[index] -= size
    return passes


def pack_evenly(
    parts: Sequence[list[Row]], max_tokens: int, num_passes: int, cost: Callable[[list[Row]], float]
) -> list[list[Row]]:
    """Packs parts into at most `num_passes` passes of similar cost and at most `max_tokens` (or one larger part).

    If a part does not fit into any pass, falls back to `pack_tightly`, which needs no more passes than that.
    """
    passes: list[list[Row]] = [[] for _ in range(num_passes)]
    costs, rooms = [0.0] * num_passes, [max_tokens] * num_passes
    for part in sorted(parts, key=cost, reverse=True):
        size = packed_tokens(part)
        fitting = [i for i in range(num_passes) if size <= rooms[i] or not passes[i]]
        if not fitting:
            return pack_tightly(parts, max_tokens)
        index = min(fitting, key=costs.__getitem__)
        passes[index] += part
        costs[index] += cost(part)
        rooms[index] -= size
    return [rows for rows in passes if rows]
