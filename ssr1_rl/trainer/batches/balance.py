"""Groups shared among ranks, and a rank's rows cut into passes: each within its bounds and as equal in cost as can be.

Both go by longest processing time first (Graham 1969): the costliest one next, to whoever has least. Ranks wait
for each other at the end of every update, and under ZeRO-3 in every layer of every pass.
"""

from collections.abc import Callable, Iterator, Sequence

from ssr1_rl.trainer.batches.rows import Row, by_prompt, packed_tokens
from ssr1_rl.types import TrainGroup

GroupCost = Callable[[TrainGroup], float]
"""What a group costs a rank; see `PassCost`."""


def share_minibatches(
    groups: Sequence[TrainGroup], num_minibatches: int, num_ranks: int, cost: GroupCost
) -> list[list[list[TrainGroup]]]:
    """For each rank its share of each mini-batch.

    Mini-batches are cut in the order of the groups before they are shared, so that what an
    update trains on does not depend on the number of ranks.
    """
    size = len(groups) // num_minibatches
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    return [list(shares) for shares in zip(*(share_groups(part, num_ranks, cost) for part in parts), strict=True)]


def share_groups(groups: Sequence[TrainGroup], num_ranks: int, cost: GroupCost) -> list[list[TrainGroup]]:
    """Shares groups among ranks; each gets one at least. Those that cost nothing go where there are fewest."""
    assert len(groups) >= num_ranks, "checked by the configuration"
    shares: list[list[TrainGroup]] = [[] for _ in range(num_ranks)]
    costs = [0.0] * num_ranks
    for group in sorted(groups, key=cost, reverse=True):
        of_group = cost(group)
        loads = [(costs[r], len(shares[r])) if of_group else (len(shares[r]), costs[r]) for r in range(num_ranks)]
        rank = min(range(num_ranks), key=loads.__getitem__)
        shares[rank].append(group)
        costs[rank] += of_group
    return shares


def rows_to_train(rows: Sequence[Row], keep_all: bool) -> list[Row]:
    """Leaves out rows without gradient: empty or masked responses, and (unless `keep_all`) advantages of 0.

    The latter count in the loss's denominator all the same, so the gradient is exactly that of
    all rows. One row stays if any carries loss, so that a rank has a pass to run.
    """
    in_loss = [row for row in rows if row.response and row.in_loss]
    kept = [row for row in in_loss if keep_all or any(row.advantages)]
    return kept or in_loss[:1]


def response_lengths(group: TrainGroup) -> tuple[int, ...]:
    """Tokens of the responses that have any."""
    return tuple(len(response) for response in group.responses if response)


def trained_lengths(group: TrainGroup, keep_all: bool) -> tuple[int, ...]:
    """Tokens of the responses that `rows_to_train` keeps of a group."""
    num_responses = len(group.responses)
    mask_G = group.loss_mask_G or (True,) * num_responses
    advantages = group.token_advantages or [(advantage,) for advantage in group.advantages_G]
    return tuple(
        len(response)
        for response, in_loss, values in zip(group.responses, mask_G, advantages, strict=True)
        if response and in_loss and (keep_all or any(values))
    )


def cut_parts(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows by prompt. Those of a prompt that do not fit into `max_tokens` are cut; each part then has the prompt."""
    return [part for of_prompt in by_prompt(rows) for part in _split(of_prompt, max_tokens)]


def _split(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows of one prompt in parts within `max_tokens`, one row at least in each."""
    part: list[Row] = []
    for row in rows:
        if part and packed_tokens([*part, row]) > max_tokens:
            yield part
            part = []
        part.append(row)
    yield part


def pack_tightly(parts: Sequence[list[Row]], max_tokens: int) -> list[list[Row]]:
    """Parts in few passes, within `max_tokens` packed tokens (or one part): first fit, the largest first."""
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
    """Parts in at most `num_passes` passes of like cost, within `max_tokens`; as `pack_tightly` where none are found.

    Args:
        num_passes: at least as many as `pack_tightly` needs.
        cost: of a part.
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


def cut_padded_micro_batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows of like length, as many as fit into `max_tokens` with their padding; one at least."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: row.num_tokens, reverse=True):
        if batch and (len(batch) + 1) * batch[0].num_tokens > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
