"""What a visitor gets instead of an answer."""


class Refusal(Exception):
    """A request that gets a sentence instead of an answer, and its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
