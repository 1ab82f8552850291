"""Stand-in for slicer.i18n: English is what is written in the sources."""


def tr(text: str) -> str:
    return text


def translate(context: str, text: str) -> str:
    return text
