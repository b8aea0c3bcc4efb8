"""What others wrote, made fit to be shown."""

from hypothesis import given
from hypothesis import strategies as st

from nuclei.quoting import printable, quoted, sentence, shortened


@given(st.text())
def test_printable_is_printable_and_keeps_what_was(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert printable("a\nb\x1b[2J\x00\u202e\udc80 µm") == r"a\nb\x1b[2J\x00\u202e\udc80 µm"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(st.one_of(st.text(), st.integers(), st.none()))
def test_quotes_are_short_and_printable(value: object) -> None:
    assert quoted(value).isprintable()
    assert len(quoted(value)) < 1000


def test_a_quote_says_how_long_the_whole_is() -> None:
    assert quoted("unet") == "'unet'"
    assert quoted(None) == "None"
    assert quoted("x" * 10**6) == f"'{80 * 'x'}...' (1000000 characters)"


def test_shortened_keeps_both_ends() -> None:
    assert shortened("short", 100) == "short"
    assert shortened("a" + "-" * 500 + "z", 10) == "a---- ... ----z (502 characters)"


def test_a_sentence_fits_into_a_status_whatever_it_repeats() -> None:
    for character in "x\n\x1b\U0001f600\u202e":
        said = sentence(ValueError(character * 10**6))
        assert said.isprintable()
        assert len(said) < 1000
