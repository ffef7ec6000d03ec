"""Names of the files of scored rows."""

import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.records import check_rows_names, rows_path


@pytest.mark.parametrize("name", ["dev.news", "Dev.News", "d\u00e9v.news"])
def test_a_test_set_whose_rows_an_evaluator_would_overwrite_is_an_error(name):
    evaluator = "de\u0301v" if "\u00e9" in name else "dev"
    check_rows_names(evaluator, ["dev"], ["news", name])
    with pytest.raises(ConfigError, match=f"evaluation/{name}.jsonl. Fix: rename"):
        check_rows_names(evaluator, ["dev", "news"], ["news", name])


def test_the_checked_name_is_that_of_the_written_file(tmp_path):
    path = rows_path(tmp_path / "few.json", "news")
    with pytest.raises(ConfigError, match="one file"):
        check_rows_names("few", ["news"], [path.stem])
