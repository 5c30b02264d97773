"""Which words of a model's code are settings that it reads."""

import pytest

from keelback.audit.checkpoints._config_reads import settings_read


@pytest.mark.parametrize(
    "line",
    [
        "x = config.width",
        "x = self.config.width",
        "x = text_config.width + 1",
        "x = config['width']",
        "x = getattr(config, 'width', None)",
        "x = config.get('width')",
        "if 'width' in config: pass",
    ],
)
def test_a_setting_that_is_read(line: str) -> None:
    assert "width" in settings_read(line)


@pytest.mark.parametrize(
    "line",
    [
        "scan(x, width=3)",
        "width = 3",
        "x = self.width",
        "x = 'width'",
        "def scan(width): return width",
        "# config.width",
        "x = getattr(self, 'width')",
        "x = width in config.sizes",
    ],
)
def test_a_word_that_stands_elsewhere(line: str) -> None:
    assert "width" not in settings_read(line)


def test_what_a_configuration_takes_of_its_own_arguments() -> None:
    line = "x = kwargs.pop('width', self.height)"
    assert settings_read(line, "kwargs") == {"pop", "width"}
    assert settings_read(line, "self") == {"height"}


def test_what_is_only_written_down_for_others_is_not_read() -> None:
    source = """
class Config:
    def __post_init__(self):
        self.width = self.depth

    def to_block_config(self):
        return Block(self.out_norm)
"""
    assert settings_read(source, "self") == {"width", "depth", "out_norm"}
    assert settings_read(source, "self", exports=False) == {"width", "depth"}


def test_code_that_cannot_be_parsed() -> None:
    assert settings_read("def (") == frozenset()
