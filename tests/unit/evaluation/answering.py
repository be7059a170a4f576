"""A model's double, which answers rows with given texts."""

from ssr1_rl.inference.request import Answer

CHOICES = ["dog", "cat", "dog barking", "cow"]


def tagged(answer):
    return f"<think> x </think> <answer> {answer} </answer>"


class Model:
    """Answers with a text per question id (and sample), and remembers what it was asked."""

    def __init__(self, texts, stop_after=None):
        self.texts, self.stop_after, self.asked = texts, stop_after, []

    def answers(self, rows, to_request):
        for row in rows:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(row)
            yield [self.answer(row)]

    def answer(self, row):
        sample = row["key"].split("/")[1]
        found = self.texts.get((row["id"], sample), self.texts.get(row["id"], ""))
        if isinstance(found, Exception):
            return Answer(row["key"], error=str(found))
        return Answer(row["key"], found, 10, len(found.split()), "length" if found.endswith("…") else "stop")
