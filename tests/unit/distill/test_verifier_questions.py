"""What the verifier's model is asked about claims, and how its answers are read."""

import math
import pickle

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.demo.tiny_models import CHAT_TEMPLATE, build_tiny_qwen2_audio
from ssr1_rl.distill.verification.claim_questions import ClaimQuestion, ToJudge, judgements, questions_about, row_key
from ssr1_rl.distill.verification.letters import _first_token, letter_tokens
from ssr1_rl.errors import UserError
from ssr1_rl.inference.request import Answer
from ssr1_rl.types import AudioRef, Question

A = ("a.wav",)
B = ("b.wav",)


def chain(key, thoughts, clips=A):
    return ToJudge(key, Question(key, "?", "x", audio=tuple(map(AudioRef, clips))), thoughts)


def settings(model="", **verifier):
    config = Config()
    config.data.train = DatasetConfig(path="train.json")
    for name, value in {"model": str(model), **verifier}.items():
        setattr(config.verifier, name, value)
    return config


CHAINS = [
    chain("1", "I hear a dog and a car."),
    chain("2", "I hear a horn.", B),
    chain("3", "I hear a dog. What else?"),
    chain("4", "So the answer is B."),
    chain("5", "I hear a dog.", ()),
]


def test_a_claim_about_a_clip_is_asked_once_and_the_questions_of_a_clip_stand_together():
    asked = questions_about(CHAINS, settings().verifier)
    assert [(row["claim"], row["audio"]) for row in asked.rows] == [
        ("I hear a dog", ["a.wav"]),
        ("I hear a car", ["a.wav"]),
        ("I hear a horn", ["b.wav"]),
    ]
    assert asked.claims["1"] == ("I hear a dog", "I hear a car") and asked.claims["3"] == ("I hear a dog",)
    assert asked.unjudged == {"4": "no claims", "5": "its question has no audio"}
    again = questions_about(list(reversed(CHAINS)), settings().verifier)
    assert {row["key"] for row in again.rows} == {row["key"] for row in asked.rows}, "keys depend on nothing else"


def test_orders_and_whole_chains_and_too_many_claims():
    three = questions_about(CHAINS[:1], settings(num_orders=3).verifier)
    assert [(row["claim"], row["order"]) for row in three.rows][:4] == [
        ("I hear a dog", 0),
        ("I hear a dog", 1),
        ("I hear a dog", 2),
        ("I hear a car", 0),
    ]
    whole = questions_about(CHAINS, settings(method="chain").verifier)
    assert whole.claims["4"] == ("So the answer is B.",) and len(whole.rows) == 4
    assert questions_about([chain("6", " ")], settings(method="chain").verifier).unjudged == {"6": "no claims"}
    few = questions_about(CHAINS[:1], settings(max_claims=1).verifier)
    assert few.unjudged == {"1": "2 claims, more than verifier.max_claims=1"} and not few.rows


LETTERS = [50, 60, 70]


def answer(claim, order, logprobs, clips=A, error=""):
    return Answer(row_key(clips, claim, order), first_logprobs=dict(zip(LETTERS, logprobs, strict=True)), error=error)


def test_verdicts_are_read_by_the_letters_of_each_order():
    asked = questions_about(CHAINS[:1], settings(num_orders=3).verifier)
    # In order 1 letter A is the second verdict, in order 2 the third.
    given = [answer("I hear a dog", 0, map(math.log, (0.6, 0.3, 0.1)))]
    given += [answer("I hear a dog", 1, map(math.log, (0.3, 0.1, 0.6)))]
    given += [answer("I hear a dog", 2, map(math.log, (0.1, 0.6, 0.3)))]
    given += [answer("I hear a car", order, (0.0, 0.0, 0.0)) for order in range(3)]
    found = judgements(CHAINS[:1], asked, {one.key: one for one in given}, LETTERS, 3)["1"]
    dog, car = found.verdicts
    assert dog.text == "I hear a dog"
    assert (dog.supported, dog.contradicted, dog.cannot_tell) == pytest.approx((0.6, 0.3, 0.1))
    assert car.supported == pytest.approx(1 / 3)


def test_one_failed_claim_leaves_the_chain_unjudged_and_others_judged():
    asked = questions_about(CHAINS, settings().verifier)
    given = [answer("I hear a dog", 0, (0.0, -9.0, -9.0)), answer("I hear a car", 0, (0, 0, 0), error="clip lost")]
    given += [answer("I hear a horn", 0, (-9.0, 0.0, -9.0), B)]
    found = judgements(CHAINS, asked, {one.key: one for one in given}, LETTERS, 1)
    assert found["1"].error == "clip lost" and found["1"].is_failed and found["1"].score("all") is None
    assert found["3"].score("all") > 0.99 and found["2"].verdicts[0].outcome == "contradicted"
    assert found["4"].error == "no claims" and not found["4"].is_failed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = ["Listen to the audio. Is this claim about it true: I hear a dog\n(A) supported\n(B) contradicted", "A B C"]
    texts += ["\n(C) cannot tell\nAnswer with the letter of one option."]
    return build_tiny_qwen2_audio(tmp_path_factory.mktemp("models") / "audio", texts, hidden_size=64, num_layers=2)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.sin(np.arange(16000) / 20).astype(np.float32), 16000)
    return str(path)


def test_a_request_has_the_clip_the_prompt_and_the_letters_and_survives_pickling(model, clip):
    ask = pickle.loads(pickle.dumps(ClaimQuestion(settings(model, num_orders=3, system_prompt="hear"))))
    row = questions_about([chain("1", "I hear a dog <|AUDIO|>", (clip,))], settings(num_orders=3).verifier).rows[1]
    request = ask(row)
    tokenizer = PromptBuilder(str(model), Config().data).tokenizer
    assert tokenizer.decode(list(request.token_ids)) == (
        "<|im_start|>system\nhear<|im_end|>\n<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
        "Listen to the audio. Is this claim about it true: I hear a dog < |AUDIO|>\n(A) contradicted\n(B) cannot tell"
        "\n(C) supported\nAnswer with the letter of one option.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(request.waveforms) == 1 and request.waveforms[0].shape == (16000,)
    assert request.max_response_tokens == 1 and request.distribution.temperature == 0
    assert list(request.allowed_token_ids) == ask.letters() == tokenizer.convert_tokens_to_ids(["A", "B", "C"])
    assert ask.example(row).endswith("assistant\n")


def test_a_claim_may_hold_braces(model, clip):
    row = {"key": "k", "claim": "I hear {x} and {claim}", "order": 0, "audio": [clip]}
    assert "true: I hear {x} and {claim}\n(A) supported" in ClaimQuestion(settings(model)).example(row)


def test_a_text_model_is_refused(model, tmp_path):
    from transformers import AutoTokenizer, Qwen2Config

    folder = tmp_path / "text"
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    Qwen2Config().save_pretrained(folder)
    with pytest.raises(UserError, match="hears nothing: give an audio-language model"):
        ClaimQuestion(settings(folder)).letters()


def tokens(model, template, data=None, num=3):
    builder = PromptBuilder(str(model), data or Config().data)
    builder._template = template
    prompt = builder.prepare(Question("", "Is it true?", ""), (), ()).token_ids
    return builder.tokenizer.convert_ids_to_tokens(letter_tokens(builder, prompt, num, "the model"))


def test_the_letters_are_found_after_what_the_template_ends_with(model):
    assert tokens(model, CHAT_TEMPLATE) == ["A", "B", "C"]
    closed = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
    assert closed != CHAT_TEMPLATE and tokens(model, closed) == ["A", "B", "C"]


@pytest.mark.parametrize("end", ["\n", " ", "", "<|im_end|>"])
def test_a_letter_is_the_token_that_follows_the_prompt_not_the_one_at_the_start_of_a_text(end):
    """As SentencePiece tokenizers write them: "▁A" is an A at the start of a text or after a space."""
    vocabulary = {text: index for index, text in enumerate(["<|im_end|>", *"▁AxC\n:", "▁A"])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "A")]))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    prompt = tokenizer("<|im_end|>x:", add_special_tokens=False)["input_ids"]
    prompt += tokenizer("x" + end, add_special_tokens=False)["input_ids"][2:]
    assert _first_token(tokenizer, prompt, "A") == vocabulary["A"] != tokenizer("A")["input_ids"][0]
    assert _first_token(tokenizer, prompt, "AxC") is None


def test_letters_that_are_no_tokens_of_their_own_and_open_thoughts_are_refused(model):
    with pytest.raises(UserError, match=r"not one token each for the model \(.*10: None.*verifier.method=custom"):
        tokens(model, CHAT_TEMPLATE, num=27)
    opened = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(UserError, match=r"opens '<think>' for every response.*enable_thinking: false"):
        tokens(model, opened)
