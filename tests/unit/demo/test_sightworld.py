"""The sight world is reproducible and complete; its answers, chains and verdicts are true, and its traps trap."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.config.sections.verifier import VerifierConfig
from ssr1_rl.data.read import read_questions
from ssr1_rl.demo.scenes import NUMBERS, TIMBRES
from ssr1_rl.demo.sightworld.chains import conclusion, is_grounded, response, thoughts
from ssr1_rl.demo.sightworld.claims import CLAIM_QUESTION, VERDICTS, draw_claim
from ssr1_rl.demo.sightworld.questions import KINDS, ONE_STEP_KINDS, Asked, answer_to, ask, ask_one_step, worded
from ssr1_rl.demo.sightworld.sights import Traps, see
from ssr1_rl.demo.sightworld.video import FRAMES_PER_SOUND, SIZE, frames
from ssr1_rl.demo.sightworld.world import NOT_SEEN, SPLITS, SightWorldSettings, make_sight_world
from ssr1_rl.distill.finetuning.examples import choose_examples
from ssr1_rl.distill.verification.claims import split_claims

SMALL = SightWorldSettings(
    num_pretrain=8,
    num_told=6,
    num_teacher=12,
    num_verifier=6,
    num_told_claims=5,
    num_train=24,
    num_validation=6,
    num_test=12,
    num_unseen_scenes=12,
    num_unseen_questions=24,
)
ROW = ("hiss", "rattle", "hiss", "buzzer")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_sight_world(tmp_path_factory.mktemp("worlds") / "small", SMALL)


def digests(paths):
    return {
        str(file.relative_to(paths.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(paths.folder.rglob("*"))
        if file.is_file()
    }


def rows(paths, split):
    return json.loads(paths.questions(split).read_text())


def asked_of(clip):
    return Asked(clip["asked"]["kind"], tuple(clip["asked"]["about"]))


def decoded(file):
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_same_settings_same_bytes_and_another_seed_other_ones(world, tmp_path):
    assert digests(make_sight_world(tmp_path / "again", SMALL)) == digests(world)
    other = digests(make_sight_world(tmp_path / "other", dataclasses.replace(SMALL, seed=1)))
    assert all(other[name] != digests(world)[name] for name in ("audio/train_000000.wav", "video/train_000000.mp4"))


def test_a_clip_does_not_depend_on_the_number_of_others(world, tmp_path):
    fewer = digests(make_sight_world(tmp_path / "fewer", dataclasses.replace(SMALL, num_train=12)))
    name = "video/test_000003.mp4"
    assert fewer[name] == digests(world)[name]


def test_read_back_as_data_sets(world):
    ids = []
    for split in SPLITS:
        result = read_questions(world.dataset(split), max_skipped_share=0.0)
        rows_per_clip = SMALL.claims_per_clip + 1 if split == "verifier" else 1
        told = {"pretrain": SMALL.num_told, "verifier": SMALL.num_told_claims}.get(split, 0)
        assert len(result.questions) == SMALL.num_clips(split) * rows_per_clip + told and not result.skipped
        assert sum(not question.audio for question in result.questions) == told
        assert all((question.video is None) == (split in NOT_SEEN) for question in result.questions)
        ids += [question.id for question in result.questions]
    assert len(ids) == len(set(ids))
    clips = [digest for name, digest in digests(world).items() if name.endswith(".wav")]
    assert len(clips) == len(set(clips)) == sum(map(SMALL.num_clips, SPLITS))


def test_answers_follow_from_what_sounds(world):
    truth = json.loads(world.truth.read_text())
    for split in (split for split in SPLITS if split not in NOT_SEEN):
        for row in rows(world, split):
            clip = truth[row["video_name"]]
            asked = asked_of(clip)
            assert row["multi_choice"][row["answer"]] == answer_to(asked, clip["sounds"])
            assert all(sound in row["question_text"] for sound in asked.about)


def test_every_clip_that_is_seen_has_a_silent_video_of_its_length(world):
    truth = json.loads(world.truth.read_text())
    for split in SPLITS:
        files = sorted(world.video_dir.glob(f"{split}_0*.mp4"))
        assert len(files) == (0 if split in NOT_SEEN else SMALL.num_clips(split))
    file = world.video_dir / "train_000000.mp4"
    with av.open(str(file)) as container:
        assert not container.streams.audio
        assert container.streams.video[0].average_rate == 7.5 and container.duration == 1_600_000
    shown = decoded(file)
    assert len(shown) == 4 * FRAMES_PER_SOUND and shown[0].shape == (SIZE, SIZE, 3)
    assert len(truth["train_000000"]["seen"]) == 4


def test_frames_show_the_objects():
    colours = {"whistle": (240, 200, 40), "buzzer": (220, 50, 50), "hiss": (60, 110, 230), "rattle": (50, 180, 80)}

    def shows(frame, name):
        return bool((frame == colours[name]).all(axis=-1).sum() > 100)

    seen = (("whistle", "rattle"), (), ("hiss",), ("buzzer",))
    drawn = list(frames(seen, np.random.default_rng(0)))
    for number, objects in enumerate(seen):
        for frame in drawn[number * FRAMES_PER_SOUND : (number + 1) * FRAMES_PER_SOUND]:
            assert {name for name in TIMBRES if shows(frame, name)} == set(objects)


def test_frames_survive_the_encoding(world):
    truth = json.loads(world.truth.read_text())["train_000000"]
    ground = decoded(world.video_dir / "train_000000.mp4")
    changed = [int((abs(frame.astype(int) - frame[0, 0]).sum(axis=-1) > 60).sum()) for frame in ground]
    for number, objects in enumerate(truth["seen"]):
        # A shape covers between 150 and 400 of the 64 x 64 pixels.
        assert len(objects) * 150 <= changed[number * FRAMES_PER_SOUND] < len(objects) * 420 + 1


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (Asked("after", ("rattle",)), "hiss"),
        (Asked("after", ("buzzer",)), None),  # nothing follows
        (Asked("after", ("hiss",)), None),  # which of the two?
        (Asked("after", ("whistle",)), None),  # not heard
        (Asked("before", ("buzzer",)), "hiss"),
        (Asked("different"), "three"),
        (Asked("same"), "no"),
        (Asked("count", ("hiss",)), "two"),
        (Asked("count", ("whistle",)), None),
        (Asked("order", ("rattle", "buzzer")), "yes"),
        (Asked("order", ("buzzer", "rattle")), "no"),
        (Asked("order", ("hiss", "rattle")), None),
        (Asked("first"), "hiss"),
        (Asked("last"), "buzzer"),
        (Asked("sounds"), "four"),
    ],
)
def test_answers(asked, answer):
    assert answer_to(asked, ROW) == answer


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_equally_frequent(kind):
    rng = np.random.default_rng(0)
    drawn = [ask(kind, rng) for _ in range(200)]
    counts = [sum(answer_to(*one) == option for one in drawn) for option in KINDS[kind].options]
    assert min(counts) > 0.65 * 200 / len(counts)
    assert all(len(sounds) == 4 for _, sounds in drawn)


def test_one_step_questions_are_about_one_to_three_sounds():
    rng = np.random.default_rng(0)
    lengths = {kind: {len(ask_one_step(kind, rng)[1]) for _ in range(50)} for kind in ONE_STEP_KINDS}
    assert lengths == {"only": {1}, "first": {2, 3}, "last": {2, 3}, "sounds": {1, 2}}


def test_unseen_questions_are_known_words_in_other_sentences(world):
    def words(kinds, unseen):
        texts = [text for kind in kinds.values() for text in (kind.unseen_wordings if unseen else kind.wordings)]
        return {word for text in texts for word in text.replace("?", " ?").split()}, set(texts)

    known, texts = words(KINDS | ONE_STEP_KINDS, False)
    used, unseen_texts = words(KINDS, True)
    assert used <= known and texts.isdisjoint(unseen_texts)
    sizes = {len(row["multi_choice"]) for row in rows(world, "unseen_questions")}
    assert 4 not in sizes and sizes == {2, 3}
    assert worded(Asked("same"), np.random.default_rng(0), unseen=True) in unseen_texts


@pytest.mark.parametrize(
    ("asked", "concluded", "answer"),
    [
        (Asked("after", ("rattle",)), "The rattle is second and the hiss third.", "hiss"),
        (Asked("before", ("rattle",)), "The rattle is second and the hiss first.", "hiss"),
        (Asked("different"), "The hiss and the rattle and the buzzer make three.", "three"),
        (Asked("same"), "The first is a hiss and the last a buzzer: not the same.", "no"),
        (Asked("count", ("hiss",)), "The hiss is first and third: two times.", "two"),
        (Asked("order", ("buzzer", "rattle")), "The buzzer is fourth and the rattle second: after.", "no"),
    ],
)
def test_a_chain_lists_what_is_heard_and_concludes(asked, concluded, answer):
    assert response(asked, ROW) == (
        f"<think> First a hiss. Second a rattle. Third a hiss. Fourth a buzzer. {concluded} </think> "
        f"<answer> {answer} </answer>"
    )


def test_a_chain_is_grounded_only_if_every_claim_is_true():
    asked = Asked("same")
    chain = thoughts(asked, ROW)
    assert is_grounded(f" {chain}\n", asked, ROW)
    assert not is_grounded(thoughts(asked, ("hiss", "whistle", "hiss", "buzzer")), asked, ROW)  # with the right answer
    assert not is_grounded(chain.replace(": not the same", ": the same"), asked, ROW)
    assert not is_grounded(chain.replace("Third a hiss. ", ""), asked, ROW)


def learned(world, split):
    """The questions of a split with the responses that SFT finds for them."""
    questions = read_questions(world.dataset(split), max_skipped_share=0.0).questions
    sft = SftConfig(responses="kept", chains=str(world.responses(split)), validate_every=0)
    examples = choose_examples(questions, sft, max_skipped_share=0.0, seed=0).train
    assert len(examples) == len(questions)
    return [(example.question, *example.responses) for example in examples]


def test_the_teacher_learns_true_chains_of_its_part_of_the_world(world):
    truth = json.loads(world.truth.read_text())
    for question, taught in learned(world, "teacher"):
        clip = truth[Path(question.audio[0].path).stem]
        inside = taught.partition("<think>")[2].partition("</think>")[0]
        assert is_grounded(inside, asked_of(clip), clip["sounds"])
        assert taught.endswith(f"<answer> {question.ground_truth} </answer>")


def test_the_student_learns_to_name_sounds_and_to_reason_about_told_ones(world):
    for question, taught in learned(world, "pretrain"):
        if question.audio:
            assert taught == f"<answer> {question.ground_truth} </answer>" and question.kind in ONE_STEP_KINDS
        else:
            told = re.match(r"First a .*Fourth a \w+\.", question.text)
            assert told and taught.startswith(f"<think> {told[0]} ") and question.kind in KINDS
            assert taught.endswith(f"<answer> {question.ground_truth} </answer>")


def test_the_verifier_learns_to_answer_as_the_check_asks(world):
    """Its questions and answers are those of `distill verify` about a chain's claims."""
    truth = json.loads(world.truth.read_text())
    taught = [(question, letter) for question, letter in learned(world, "verifier") if question.kind == "claim"]
    assert all(letter == "ABC"[question.choices.index(question.ground_truth)] for question, letter in taught)
    assert all(list(question.choices) == VerifierConfig().verdicts for question, _ in taught)
    texts = {question.text for question, _ in taught if question.audio}
    clips = [truth[row["video_name"]] for row in rows(world, "train")]
    made = {claim for clip in clips for claim in split_claims(thoughts(asked_of(clip), clip["sounds"]))}
    assert {CLAIM_QUESTION.format(claim=claim) for claim in made} & texts
    assert all(len(split_claims(thoughts(asked_of(clip), clip["sounds"]))) == 5 for clip in clips)
    told = [question.text for question, _ in taught if not question.audio]
    assert len(told) == SMALL.num_told_claims
    assert all(re.match(r"First a \w+\. .*Fourth a \w+\. Is this true: ", text) for text in told)


def test_the_verifier_learns_to_name_what_it_hears(world):
    truth = json.loads(world.truth.read_text())
    taught = [(question, text) for question, text in learned(world, "verifier") if question.kind != "claim"]
    assert len(taught) == SMALL.num_verifier
    for question, text in taught:
        clip = truth[Path(question.audio[0].path).stem]
        assert is_grounded(text.partition("<think>")[2].partition("</think>")[0], asked_of(clip), clip["sounds"])


def test_companions_sound_otherwise_where_the_teacher_learned():
    traps = Traps(hidden_share=0, silent_share=0, together_share=1, companions=(("rattle", "whistle"),))
    rng = np.random.default_rng(0)
    here = see(("rattle", "whistle", "hiss"), traps, rng, where_teacher_learned=False)
    assert here.together and [set(objects) for objects in here.seen] == [{"rattle", "whistle"}, {"whistle"}, {"hiss"}]
    there = see(("rattle", "whistle", "hiss"), traps, rng, where_teacher_learned=True)
    assert [set(objects) for objects in there.seen] == [{"rattle"}, {"whistle", "rattle"}, {"hiss"}]


def test_traps_are_as_frequent_as_set():
    traps = Traps(hidden_share=0.2, silent_share=0.3, together_share=0.6)
    rng = np.random.default_rng(0)
    sights = [see(("hiss", "rattle"), traps, rng, where_teacher_learned=False) for _ in range(2000)]
    counts = np.bincount([len(sight.seen[0]) for sight in sights]) / 2000
    np.testing.assert_allclose(counts, [0.2, 0.5, 0.3], atol=0.04)
    assert abs(np.mean([sight.together for sight in sights]) - 0.6) < 0.04
    assert all(set(sight.seen[1]) == {"rattle", "whistle"} for sight in sights if sight.together)
    apart = [sight.seen[1] for sight in sights if not sight.together]
    assert {"rattle", "whistle"} not in map(set, apart) and {"rattle", "hiss"} in map(set, apart)


def test_verdicts_are_true_of_the_sounds():
    rng = np.random.default_rng(0)
    by_text = {claim.text: claim.verdict for claim in (draw_claim(ROW, rng) for _ in range(1500))}
    assert by_text["Second a rattle"] == "supported" and by_text["Second a whistle"] == "contradicted"
    assert by_text["The hiss and the rattle and the buzzer make three"] == "supported"
    assert by_text["The rattle is second and the hiss third"] == "supported"
    assert "contradicted" in {verdict for text, verdict in by_text.items() if text.startswith("The rattle is first")}
    for kind in KINDS:
        about = ("buzzer", "rattle")[: KINDS[kind].num_named]
        if answer_to(Asked(kind, about), ROW) is not None:
            assert by_text.get(conclusion(Asked(kind, about), ROW).removesuffix("."), "supported") == "supported"
    assert {verdict for text, verdict in by_text.items() if " is red" in text} == {"cannot tell"}
    drawn = [draw_claim(ROW, rng).verdict for _ in range(1000)]
    np.testing.assert_allclose([drawn.count(verdict) / 1000 for verdict in VERDICTS], [0.45, 0.45, 0.1], atol=0.05)


def test_another_world_is_not_overwritten(world):
    with pytest.raises(ValueError, match=r"sight world with other settings \(traps\); choose another folder"):
        make_sight_world(world.folder, dataclasses.replace(SMALL, traps=Traps(hidden_share=0.5)))


def test_numbers_reach_the_row_s_length():
    assert len(NUMBERS) == 4 == len(ROW)
