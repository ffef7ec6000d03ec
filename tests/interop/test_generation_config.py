"""The ids that end a text, and generation_config.json: read as transformers reads them, and kept in exports."""

import json
import runpy
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import DataError
from finetune_scaling.interop.hugging_face_model import files_digest
from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.interop.run_export import RunExport, export_run

TESTS = Path(__file__).parents[1]
MAKE_TOKENIZER = runpy.run_path(str(TESTS / "public_tokenizers.py"))["KINDS"]["byte_level"]
MAKE_MODEL = runpy.run_path(str(TESTS / "public_models.py"))["make"]
DOCUMENTED = runpy.run_path(str(TESTS / "documented_rows.py"))["documented_rows"]("Generation")
GENERATION, CONFIG, CHAT = "generation_config.json", "config.json", "chat_template.jinja"

# Content of generation_config.json (None: no such file), eos_token_id of config.json, and the ids that end a text.
READ = {
    "`eos_token_id` of `generation_config.json`, one or several": [
        ({"eos_token_id": [5, 2, 7], "pad_token_id": 0}, [5], (2, 5, 7)), ({"eos_token_id": 9}, 2, (2, 9)),
    ],
    "`eos_token_id` of `config.json`, one or several": [(None, [2, 8], (2, 8)), (None, 2, (2,)), (None, None, (2,))],
    "other fields of `generation_config.json`": [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 50, "eos_token_id": [2]}, 2, (2,)),
    ],
}  # fmt: skip
REFUSED = {
    "`eos_token_id` that is no id of the model": [
        ({"eos_token_id": "</s>"}, 2), ({"eos_token_id": [True]}, 2), (None, ["</s>"]), (None, 352),
        ({"eos_token_id": 352}, 2), ({"eos_token_id": [2, -1]}, 2),
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def public(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "llama"
    MAKE_TOKENIZER(folder)
    (folder / CHAT).write_text("{{ messages }}\n")
    MAKE_MODEL("llama", vocab_size=352, eos_token_id=2, bos_token_id=1, pad_token_id=0).save_pretrained(folder)
    return folder


@pytest.fixture
def changed(public, tmp_path):
    """changed(generation, eos) -> a copy of the model with these ids that end a text."""

    def change(generation, eos):
        folder = tmp_path / "public"
        folder.mkdir()
        for file in public.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / GENERATION).unlink()
        if generation is not None:
            (folder / GENERATION).write_text(json.dumps(generation))
        fields = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**fields, "eos_token_id": eos}))
        return folder

    return change


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in READ.items() for case in cases])
def test_ids_that_end_a_text_are_those_of_transformers_and_are_exported(row, case, changed, tmp_path):
    generation, eos, ends = case
    folder = changed(generation, eos)
    found = AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id
    assert {*ends} == {2, *(found if isinstance(found, list) else [found] if found else [])}
    assert load_tokenizer(folder).special_tokens.end_ids[0] == 2
    assert {*load_tokenizer(folder).special_tokens.end_ids} == {*ends}
    import_model(ModelImport(str(folder), str(tmp_path / "base")))
    assert {*load_tokenizer(tmp_path / "base" / "tokenizer").special_tokens.end_ids} == {*ends}
    export_run(RunExport(str(tmp_path / "base"), model=str(tmp_path / "out")))
    before, after = (json.loads((place / CONFIG).read_text()) for place in (folder, tmp_path / "out"))
    assert {name: after[name] for name in ("bos_token_id", "pad_token_id")} == {"bos_token_id": 1, "pad_token_id": 0}
    assert after["eos_token_id"] == (2 if before["eos_token_id"] is None else before["eos_token_id"])
    assert (tmp_path / "out" / CHAT).read_bytes() == (folder / CHAT).read_bytes()
    if generation is not None:
        assert json.loads((tmp_path / "out" / GENERATION).read_text()) == generation
    exported = GenerationConfig.from_pretrained(tmp_path / "out")
    assert exported.eos_token_id == (after["eos_token_id"] if generation is None else generation["eos_token_id"])


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in REFUSED.items() for case in cases])
def test_other_ids_are_refused(row, case, changed):
    with pytest.raises(DataError, match=r"eos_token_id = .* is neither an id nor a list of ids"):
        load_tokenizer(changed(*case))


def test_digest_of_a_public_model_covers_its_generation_config(changed):
    folder = changed({"eos_token_id": [9]}, 2)
    before = files_digest(folder)
    (folder / GENERATION).write_text('{"eos_token_id": [8]}')
    assert files_digest(folder) != before


def test_a_tuned_model_ends_its_texts_with_the_tokens_that_it_was_trained_on(changed, runs, tmp_path):
    import_model(ModelImport(str(changed({"eos_token_id": [9], "top_k": 3}, 9)), str(tmp_path / "base")))
    run = runs.tune(tmp_path / "run", tmp_path / "base", {"name": "lora", "rank": 2, "targets": ("query",)})
    fields = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_text(json.dumps({**fields, "tokenizer": str(tmp_path / "base" / "tokenizer")}))
    export_run(RunExport(str(run), model=str(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / GENERATION).read_text()) == {"eos_token_id": [2, 9], "top_k": 3}


def test_every_documented_row_has_a_case():
    assert {**dict.fromkeys(READ, "read"), **dict.fromkeys(REFUSED, "refused")} == DOCUMENTED
