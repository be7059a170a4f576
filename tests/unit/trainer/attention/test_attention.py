"""Every attention backend for packed rows gives the result of SDPA over the parts, and the right one is chosen."""

import functools
import gc
import sys
import types
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention

from ssr1_rl.checks.rules import load_config
from ssr1_rl.errors import ConfigError
from ssr1_rl.trainer.attention import choice, flash, flex, interface, sdpa
from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.attention.interface import BACKENDS, NAME
from ssr1_rl.trainer.attention.sdpa import SdpaAttention
from ssr1_rl.trainer.batches.layout import PackedGroup, PackedLayout
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX
from tests.unit.gradients import check_gradients, gradients

CPU = torch.device("cpu")
SMALL = PackedLayout((PackedGroup(5, (3, 1)), PackedGroup(1, ()), PackedGroup(2, (4,))))
# Several blocks of 128 tokens, with edges inside blocks and on their bounds.
LARGE = PackedLayout(
    (PackedGroup(300, (100, 1, 257)), PackedGroup(110, ()), PackedGroup(128, (128, 128)), PackedGroup(3, (2, 2)))
)


def layouts(longest):
    lengths = st.lists(st.integers(1, longest), max_size=4).map(tuple)
    groups = st.builds(PackedGroup, st.integers(1, longest), lengths)
    return st.lists(groups, min_size=1, max_size=4).map(lambda groups: PackedLayout(tuple(groups)))


def num_tokens(layout):
    return sum(group.num_tokens for group in layout.groups)


def random_inputs(layout, seed=0):
    """Queries of 4 heads; keys and values of 2."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, heads, num_tokens(layout), 16, generator=generator) for heads in (4, 2, 2)]


def attended_with_gradients(attention, inputs):
    """The output, and the gradients of a weighted sum of it."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = attention(*inputs, 0.3)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (weights * output).sum().backward()
    return [output.detach(), *(tensor.grad for tensor in inputs)]


def visible_pairs(layout):
    """bool [L, L], directly by the definition."""
    visible = torch.zeros(num_tokens(layout), num_tokens(layout), dtype=torch.bool)
    start = 0
    for group in layout.groups:
        prompt = range(start, start + group.prompt_length)
        start += group.prompt_length
        for i in prompt:
            visible[i, prompt.start : i + 1] = True
        for length in group.response_lengths:
            for i in range(start, start + length):
                visible[i, prompt.start : prompt.stop] = True
                visible[i, start : i + 1] = True
            start += length
    return visible


def masked_attention(layout, query, key, value, scaling):
    """[1, L, N, D] with one dense mask over the whole row."""
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~visible_pairs(layout), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def varlen_by_its_documentation(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, *, softmax_scale=None, causal=False
):
    """What flash-attn's docstring says of flash_attn_varlen_func, sequence by sequence."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert causal
    outputs = []
    for i in range(len(cu_seqlens_q) - 1):
        queries = q[cu_seqlens_q[i] : cu_seqlens_q[i + 1]].transpose(0, 1)
        keys, values = (
            t[cu_seqlens_k[i] : cu_seqlens_k[i + 1]].transpose(0, 1).repeat_interleave(q.shape[1] // k.shape[1], 0)
            for t in (k, v)
        )
        num_queries, num_keys = queries.shape[1], keys.shape[1]
        assert num_queries <= max_seqlen_q
        assert num_keys <= max_seqlen_k
        aligned_bottom_right = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
        scores = queries @ keys.transpose(1, 2) * (softmax_scale or q.shape[-1] ** -0.5)
        outputs.append((scores.masked_fill(~aligned_bottom_right, float("-inf")).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def flash_attn(monkeypatch):
    """Replaces the kernel, which runs only on GPUs, by what its documentation says."""
    module = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = varlen_by_its_documentation
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.fixture
def flex_on_cpus(monkeypatch):
    """torch's own unfused FlexAttention has a backward pass; torch refuses it to users on CPUs, where it is slow."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda query, key, value: None)


@pytest.mark.parametrize("layout", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_attends_as_defined(flash_attn, flex_on_cpus, backend, layout):
    inputs = random_inputs(layout)
    expected = attended_with_gradients(lambda *inputs: masked_attention(layout, *inputs), inputs)
    found = attended_with_gradients(BACKENDS[backend](layout, CPU), inputs)
    for tensor, wanted in zip(found, expected, strict=True):
        assert tensor.shape == wanted.shape
        assert (tensor - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.mark.parametrize("layout", [SMALL, LARGE], ids=["small", "large"])
def test_sdpa_of_other_devices_attends_as_defined(monkeypatch, layout):
    monkeypatch.setattr(sdpa, "attend_to_prompt_and_self", sdpa.UnderMask(CPU))
    test_attends_as_defined(None, None, "sdpa", layout)


def test_masks_are_made_once_for_all_layers_and_go_with_the_layout(monkeypatch):
    made, tril = [], torch.Tensor.tril

    def watched(tensor, diagonal):
        mask = tril(tensor, diagonal)
        made.append(weakref.ref(mask))
        return mask

    monkeypatch.setattr(torch.Tensor, "tril", watched)
    layout = PackedLayout((PackedGroup(5, (3, 1)),) * 2)
    attention = SdpaAttention(layout, CPU)
    attention._attend_responses = sdpa.UnderMask(CPU)
    for _ in range(2):
        attention(*random_inputs(layout), None)
    assert len(made) == 1
    monkeypatch.undo()
    del attention
    gc.collect()
    assert made[0]() is None


@pytest.mark.parametrize("of_prompt", [1.0, 100.0])
def test_responses_of_cpus_that_see_nearly_one_part_alone(of_prompt):
    """Scores of several hundred on one side: the share of the other side is 0, and nothing overflows."""
    query, key, value = random_inputs(SMALL)
    key *= 101.0 - of_prompt
    key[:, :, :5] *= of_prompt / (101.0 - of_prompt)
    expected = attended_with_gradients(lambda *inputs: masked_attention(SMALL, *inputs), (query, key, value))
    found = attended_with_gradients(SdpaAttention(SMALL, CPU), (query, key, value))
    for tensor, wanted in zip(found, expected, strict=True):
        assert (tensor - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_cpus_in_bfloat16():
    exact = random_inputs(LARGE)
    expected = attended_with_gradients(lambda *inputs: masked_attention(LARGE, *inputs), exact)
    found = attended_with_gradients(SdpaAttention(LARGE, CPU), [tensor.bfloat16() for tensor in exact])
    for tensor, wanted in zip(found, expected, strict=True):
        assert tensor.dtype == torch.bfloat16
        assert (tensor - wanted).norm() <= 0.02 * wanted.norm()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(layouts(9))
def test_sequences_of_flash_attention(layout):
    """Each query's keys are those it may see, in order, and the row's own order is that of the queries."""
    attention = flash.FlashAttention(layout, CPU)
    visible = visible_pairs(layout)
    q_bounds, k_bounds = attention._lengths["cu_seqlens_q"].tolist(), attention._lengths["cu_seqlens_k"].tolist()
    assert q_bounds[-1] == num_tokens(layout)
    for i in range(len(q_bounds) - 1):
        keys = attention._key_index[k_bounds[i] : k_bounds[i + 1]].tolist()
        num_queries = q_bounds[i + 1] - q_bounds[i]
        for j in range(num_queries):
            seen = keys[: len(keys) - num_queries + j + 1]
            assert seen == visible[q_bounds[i] + j].nonzero()[:, 0].tolist()


def test_gradients_of_copied_keys_are_summed_in_float32(monkeypatch):
    """On GPUs a sum in bfloat16 is rounded at every term; on CPUs torch sums in float32 by itself."""
    summed_in = []
    index_add = torch.Tensor.index_add_
    monkeypatch.setattr(
        torch.Tensor,
        "index_add_",
        lambda total, dim, index, terms: (
            summed_in.append((total.dtype, terms.dtype)) or index_add(total, dim, index, terms)
        ),
    )
    keys = torch.zeros(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    grads = torch.full((257, 1, 1), 2.0**-9, dtype=torch.bfloat16)
    grads[0] = 1.0
    flash._Copies.apply(keys, torch.zeros(257, dtype=torch.long)).backward(grads)
    assert keys.grad.item() == 1.5
    assert keys.grad.dtype == torch.bfloat16
    assert summed_in == [(torch.float32, torch.float32)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(layouts(200))
def test_blocks_of_flex_attention(layout):
    length = num_tokens(layout)
    size = -(-length // flex.BLOCK) * flex.BLOCK
    padded = torch.zeros(size, size, dtype=torch.bool)
    padded[:length, :length] = visible_pairs(layout)
    blocks = padded.unflatten(0, (-1, flex.BLOCK)).unflatten(2, (-1, flex.BLOCK)).transpose(1, 2).flatten(2)
    some, whole = flex.attended_blocks(layout)
    assert torch.equal(some, blocks.any(-1))
    assert not (whole & ~blocks.all(-1)).any(), "nothing is masked within these"


def test_most_blocks_of_a_long_row_are_whole_or_skipped():
    some, whole = flex.attended_blocks(PackedLayout((PackedGroup(800, (400,) * 8),) * 4))
    assert some.float().mean() < 0.15
    assert whole.sum() > 0.5 * some.sum()


def test_flex_attention_is_compiled_once_for_all_lengths(flex_on_cpus, monkeypatch):
    """Beyond torch's limit of compilations it would compute all scores. One block is a special case."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    kernel = flex._kernel.__wrapped__("cuda")
    monkeypatch.setattr(flex, "_kernel", lambda device_type: kernel)
    with torch.no_grad():
        for num_responses in range(12, 0, -1):
            layout = PackedLayout((PackedGroup(150 + 7 * num_responses, (31 + num_responses,) * num_responses),))
            inputs = random_inputs(layout)
            found, expected = flex.FlexAttention(layout, CPU)(*inputs, 0.3), masked_attention(layout, *inputs, 0.3)
            assert (found - expected).abs().max() <= 1e-5
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["flash", "flex"])
def test_a_whole_model(flash_attn, flex_on_cpus, random_text_model, backend):
    from tests.unit.trainer.batches.test_prefix_packing import GROUPS_OF_ALL_KINDS, loss_of, random_rows

    torch.manual_seed(0)
    rows = random_rows(GROUPS_OF_ALL_KINDS)
    model = load_model(str(random_text_model), torch.float32, "sdpa")
    expected = gradients(model, loss_of(Policy(model, SOFTMAX, False), rows))
    check_gradients(gradients(model, loss_of(Policy(model, SOFTMAX, False, backend), rows)), expected)


@pytest.mark.parametrize(
    ("asked_for", "reason"),
    [
        ({"softcap": 50.0}, "soft-capped"),
        ({"s_aux": torch.zeros(4)}, "sinks"),
        ({"sliding_window": 4}, "sliding-window"),
        ({"dropout": 0.1}, "dropout"),
        ({"is_causal": False}, "later tokens"),
        ({"head_mask": torch.ones(4)}, "whose attention takes head_mask"),
        ({"attention_mask": torch.ones(1, 1, 13, 13)}, "an attention mask of its own"),
    ],
)
def test_what_packing_would_leave_out_is_refused(asked_for, reason):
    layout = PackedLayout((PackedGroup(5, (3, 1)), PackedGroup(4, ())))
    inputs = random_inputs(layout)
    kwargs = {"attention_mask": None, "packing": SdpaAttention(layout, CPU), "sliding_window": None, "dropout": 0.0}
    attend = functools.partial(interface._attend, torch.nn.Module(), *inputs)
    attend(**kwargs)
    with pytest.raises(interface.InexactAttention, match=reason):
        attend(**kwargs | asked_for)
    if asked_for.keys() <= interface.IGNORED_BY_SDPA:
        with pytest.raises(interface.InexactAttention, match=reason):
            attend(**kwargs | asked_for | {"packing": None})


def test_transformers_does_not_take_packed_attention_for_its_own():
    assert "flash" not in NAME
    assert "flex" not in NAME


@pytest.fixture
def packages(monkeypatch):
    """Sets which packages can be imported, and the version of flash-attn."""

    def install(*names, flash_attn="2.8.3"):
        def import_module(name):
            if name not in names:
                raise ImportError(f"No module named '{name}'")

        monkeypatch.setattr(choice.importlib, "import_module", import_module)
        monkeypatch.setattr(choice.importlib.metadata, "version", lambda package: flash_attn)

    return install


@pytest.mark.parametrize(
    ("device", "dtype", "there", "backend", "why"),
    [
        ("cpu", "float32", (), "sdpa", "no flash: it needs run.device=cuda"),
        ("cpu", "bfloat16", ("flash_attn", "triton"), "sdpa", "no flex: its backward pass needs run.device=cuda"),
        ("cuda", "bfloat16", ("flash_attn", "triton"), "flash", "the fastest"),
        ("cuda", "bfloat16", ("triton",), "flex", "the package flash_attn does not import (No module named"),
        ("cuda", "float32", ("flash_attn", "triton"), "flex", "needs model.dtype=bfloat16, which is float32"),
        ("cuda", "bfloat16", (), "sdpa", "the package triton does not import"),
    ],
)
def test_auto_takes_the_fastest_and_says_why(packages, device, dtype, there, backend, why):
    packages(*there)
    chosen = choose_attention("auto", device, dtype)
    assert chosen.backend == backend
    assert why in str(chosen)


@pytest.mark.parametrize(("version", "right"), [("2.0.9", False), ("1.0", False), ("2.1", True), ("2.10.0+cu12", True)])
def test_flash_attn_that_masks_wrongly_is_refused(packages, version, right):
    packages("flash_attn", "triton", flash_attn=version)
    assert choose_attention("auto", "cuda", "bfloat16").backend == ("flash" if right else "flex")
    if not right:
        with pytest.raises(
            ValueError, match=rf"flash-attn is {version}, which .*; install 2\.1 or newer; set it to auto"
        ):
            choose_attention("flash", "cuda", "bfloat16")


def test_what_is_asked_for_is_taken_or_refused(packages):
    packages("triton")
    for backend in ("flex", "sdpa"):
        assert choose_attention(backend, "cuda", "bfloat16").backend == backend
    with pytest.raises(ValueError, match=r"attn_implementation=flash cannot run here: the package flash_attn does not"):
        choose_attention("flash", "cuda", "bfloat16")
    with pytest.raises(ValueError, match=r"attn_implementation=flex cannot run here: its backward pass needs run.dev"):
        choose_attention("flex", "cpu", "float32")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.attn_implementation=flash", "run.device=cpu"], "flash cannot run: it needs run.device=cuda"),
        (["model.attn_implementation=flex", "run.device=cpu"], "flex cannot run: its backward pass needs run.device"),
        (["model.attn_implementation=flash", "model.dtype=float32"], "needs model.dtype=bfloat16, which is float32"),
        (["model.attn_implementation=eager"], "must be one of auto, flash, flex, sdpa"),
    ],
)
def test_settings_that_cannot_run_are_refused_before_anything_starts(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("launch/grpo.yaml", overrides)


def test_only_towers_that_can_are_given_flash_attention(random_audio_model, random_omni_model, monkeypatch):
    from transformers import PreTrainedModel

    given_to = []
    monkeypatch.setattr(
        PreTrainedModel, "set_attn_implementation", lambda self, name: given_to.append((type(self).__name__, name))
    )
    load_model(str(random_audio_model), torch.float32, "flash")
    load_model(str(random_omni_model), torch.float32, "sdpa")
    assert not given_to
    load_model(str(random_omni_model), torch.float32, "flash")
    assert given_to == [("Qwen2_5OmniAudioEncoder", "flash_attention_2")]


def test_sdpa_works_on_the_parts(monkeypatch):
    """No tensor has an entry for every pair of tokens of the row."""
    layout = PackedLayout((PackedGroup(40, (10,) * 4),) * 4)
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel() // (4 * 16))
            return result

    with Watch():
        SdpaAttention(layout, CPU)(*random_inputs(layout), None)
    assert largest < num_tokens(layout) ** 2 / 64
