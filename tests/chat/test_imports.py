"""Whole models of other tools in `vlmtool chat`: the logits and the greedy answers of the models that wrote them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, LlamaForCausalLM, LlavaImageProcessorPil, PreTrainedModel

from tests.foreign_models import (
    IMAGE_ID,
    LLAVA_NAMES,
    OLD_TOWER,
    PINPOINTS,
    TRANSFORMERS_5,
    TYPED_TEMPLATE,
    Reference,
    make_blip2,
    make_hf_llava,
    make_llava_layout,
    picture,
    rename_folder,
    renamed,
    write_tower,
    write_weights,
)
from vlmtool.chat.generator import GenerationSettings, Generator, Request, answering
from vlmtool.chat.load import load_chat_model
from vlmtool.data.conversation import Image, user
from vlmtool.models.folder import load_projector
from vlmtool.models.projectors.ldp import LDPProjector
from vlmtool.models.projectors.ldpv2 import LDPv2Projector
from vlmtool.models.projectors.linear import LinearProjector
from vlmtool.utils.errors import CheckpointError, UsageError

QUESTION = "What is in the picture?"
GREEDY = GenerationSettings(max_new_tokens=12, temperature=0.0)
SIZES = ((40, 30), (90, 33))  # px, width and height


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Reference:
    return make_hf_llava(tmp_path_factory.mktemp("hf") / "llava")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory) -> Reference:
    return make_hf_llava(tmp_path_factory.mktemp("hf") / "next", tiled=True)


def load(model: Path, **flags) -> Generator:
    return load_chat_model(str(model), device="cpu", **{name: str(value) for name, value in flags.items()})


def request(image) -> Request:
    return Request((user(Image(image), "\n", QUESTION),))


@torch.no_grad()
def logits(generator: Generator, image) -> torch.Tensor:
    """Of the first token of the answer."""
    with answering(generator.model):
        return generator.read_prompts(generator.prepare([request(image)]))[1]


@torch.no_grad()
def expected(model: PreTrainedModel, processor: Path, generator: Generator, image) -> tuple[torch.Tensor, str]:
    """Logits and greedy answer of transformers' model for the prompt as its own template writes it."""
    inputs = dict(AutoImageProcessor.from_pretrained(processor, backend="pil")([image], return_tensors="pt"))
    tokenizer = generator.renderer.tokenizer
    text = f"USER: <image>\n{QUESTION} ASSISTANT:"
    features = model.get_image_features(**inputs, return_dict=True).pooler_output
    (ids,) = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    place = int((ids == IMAGE_ID).nonzero())
    row = torch.cat([ids[:place], torch.full((len(features[0]),), IMAGE_ID), ids[place + 1 :]])[None]
    inputs |= {"input_ids": row, "attention_mask": torch.ones_like(row)}
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, row.shape[1] :]
    return model(**inputs).logits[:, -1], tokenizer.decode(answer, skip_special_tokens=True).strip()


def check_same(generator: Generator, model: PreTrainedModel, processor: Path) -> None:
    for number, size in enumerate(SIZES):
        image = picture(size, number)
        wanted, answer = expected(model, processor, generator, image)
        assert (logits(generator, image) - wanted).abs().max() < 1e-5
        assert generator.generate([request(image)], GREEDY)[0].strip() == answer
    told = [logits(generator, picture((40, 30), seed)) for seed in (0, 1)]
    assert (told[0] - told[1]).abs().max() > 0.1  # the picture counts


@pytest.mark.parametrize("names", ["transformers 4", "transformers 5", "older tower"])
def test_a_llava_of_transformers_answers_as_there(plain, tmp_path, names, capsys):
    folder = Path(shutil.copytree(plain.folder, tmp_path / "llava"))
    if names != "transformers 4":
        rename_folder(folder, TRANSFORMERS_5 if names == "transformers 5" else OLD_TOWER, shards=3)
    check_same(load(folder), plain.model, folder)
    assert f"{folder}: LLaVA model of transformers; prompts by the chat template of its tokenizer." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("old", [False, True])
def test_a_llava_next_answers_as_there(tiled, tmp_path, old):
    folder = Path(shutil.copytree(tiled.folder, tmp_path / "next"))
    if old:
        rename_folder(folder, TRANSFORMERS_5)
    check_same(load(folder), tiled.model, folder)


@pytest.mark.parametrize("layout", ["transformers", "LLaVA"])
def test_a_language_model_with_one_table_for_both_ends(tmp_path, layout):
    made = make_hf_llava(tmp_path / "tied", tied=True)
    assert not any("lm_head" in name for name in made.state())
    tower, template = write_tower(tmp_path / "tower", made), tmp_path / "llava.jinja"
    template.write_text(TYPED_TEMPLATE)
    folder = made.folder if layout == "transformers" else make_llava_layout(tmp_path / "llava", made, tower)
    check_same(load(folder, prompt_template=template), made.model, tower)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_whole_model_loads_in_few_bits(plain, bits):
    generator = load_chat_model(str(plain.folder), bits=bits, device="cpu")
    assert {"Linear4bit", "Linear8bitLt"} & {type(module).__name__ for module in generator.model.llm.modules()}
    assert generator.generate([request(picture((40, 30)))], GREEDY)


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_a_siglip_inside_loses_a_patch_only_where_its_config_says_so(tmp_path, strategy):
    made = make_hf_llava(tmp_path / "siglip", siglip=True, strategy=strategy, vision_feature_layer=-1)
    generator = load(made.folder)
    assert generator.transform.views.tokens == {"default": 3, "full": 4}[strategy]
    check_same(generator, made.model, made.folder)


def test_the_template_of_an_older_processor_is_found(plain, tmp_path):
    folder = Path(shutil.copytree(plain.folder, tmp_path / "llava"))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TYPED_TEMPLATE}))
    check_same(load(folder), plain.model, folder)


@pytest.mark.parametrize("form", ["safetensors", "bin", "own tower", "named by a flag"])
def test_a_model_in_llavas_own_layout_answers_as_that_of_transformers(plain, tmp_path, form, capsys):
    template = tmp_path / "llava.jinja"
    template.write_text(TYPED_TEMPLATE)
    tower = write_tower(tmp_path / "tower", plain, foreign=form == "own tower")
    named = "/nowhere/clip" if form == "named by a flag" else tower
    flags = {"visual_encoder": tower} if form == "named by a flag" else {}
    folder = make_llava_layout(
        tmp_path / "llava", plain, named, own_tower=form == "own tower", pickled=form == "bin"
    )  # fmt: skip
    generator = load(folder, prompt_template=template, **flags)
    check_same(generator, plain.model, tower)
    assert "LLaVA model in LLaVA's own layout; prompts by llava." in capsys.readouterr().err
    assert not generator.transform.views.pad_to_square


@pytest.mark.parametrize("lost", ["embeddings.class_embedding", "encoder.layers.1.mlp.fc1.weight"])
def test_an_encoder_that_is_there_is_there_whole(plain, tmp_path, lost):
    tower = write_tower(tmp_path / "tower", plain, foreign=True)
    folder = make_llava_layout(tmp_path / "llava", plain, tower, own_tower=True)
    write_weights(folder, {name: value for name, value in folder_state(folder).items() if not name.endswith(lost)})
    with pytest.raises(CheckpointError, match=f"has 1 weights of its image encoder too few, first '.*{lost}'"):
        load(folder, prompt_template="vicuna")


def test_a_tiled_model_in_llavas_own_layout_answers_as_that_of_transformers(tiled, tmp_path):
    template = tmp_path / "llava.jinja"
    template.write_text(TYPED_TEMPLATE)
    folder = make_llava_layout(
        tmp_path / "next", tiled, write_tower(tmp_path / "tower", tiled), image_aspect_ratio="anyres",
        mm_patch_merge_type="spatial_unpad", image_grid_pinpoints=[pair[::-1] for pair in PINPOINTS],  # width, height
    )  # fmt: skip
    check_same(load(folder, prompt_template=template), tiled.model, tiled.folder)


def test_padding_follows_the_config(plain, tmp_path):
    tower = write_tower(tmp_path / "tower", plain)
    folder = make_llava_layout(tmp_path / "llava", plain, tower, image_aspect_ratio="pad")
    assert load(folder, prompt_template="vicuna").transform.views.pad_to_square


def test_a_processor_that_pads_does_so_once(plain, tmp_path):
    folder = Path(shutil.copytree(plain.folder, tmp_path / "llava"))
    edges = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    LlavaImageProcessorPil(**edges, do_pad=True).save_pretrained(folder)
    check_same(load(folder), plain.model, folder)


def embeds_after(reference: Reference, generator: Generator, image, image_embeds: torch.Tensor) -> torch.Tensor:
    """Logits of transformers' language model after a prompt with `image_embeds` (1, N, D) in the image's place."""
    llm, lm_head = reference.model.model.language_model, reference.model.lm_head
    ids = torch.tensor(generator.renderer.prompt(request(image).messages))
    places = (ids == IMAGE_ID).nonzero().flatten()
    assert len(places) == image_embeds.shape[1]
    text = llm.get_input_embeddings()(ids)[None]
    row = torch.cat([text[:, : places[0]], image_embeds, text[:, places[-1] + 1 :]], 1)
    return lm_head(llm(inputs_embeds=row).last_hidden_state[:, -1])


def patches(reference: Reference, tower: Path, image) -> torch.Tensor:
    """(1, 4, 64), by transformers."""
    pixels = AutoImageProcessor.from_pretrained(tower, backend="pil")([image], return_tensors="pt")["pixel_values"]
    return reference.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2])
def test_an_xmodel_vlm_answers_by_the_formula(plain, tmp_path, factor):
    tower = write_tower(tmp_path / "tower", plain)
    folder = make_llava_layout(
        tmp_path / "xmodel", plain, tower, model_type="xmodelvlm", mm_projector_type="xdpnet", rms_norm_eps=1e-6
    )
    first, second = torch.nn.Linear(64 * factor, 64), torch.nn.Linear(64, 64)
    projector = {f"model.mm_projector.mlp.0.{n}": v for n, v in first.state_dict().items()}
    projector |= {f"model.mm_projector.mlp.2.{n}": v for n, v in second.state_dict().items()}
    others = {n: v for n, v in folder_state(folder).items() if "mm_projector" not in n}
    write_weights(folder, others | projector)
    generator, image = load(folder, prompt_template="vicuna"), picture((40, 30))
    assert type(generator.model.projector).__name__ == "XDPProjector"
    assert generator.transform.views.tokens == 4 // factor
    joined = patches(plain, tower, image).reshape(1, 4 // factor, 64 * factor)
    hidden = first(joined)
    wanted = embeds_after(plain, generator, image, second(hidden * torch.tanh(torch.log1p(hidden.exp()))))  # Mish
    assert (logits(generator, image) - wanted).abs().max() < 1e-5


def folder_state(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    state = {name: value for file in files for name, value in load_file(file).items()}
    for file in (*files, folder / "model.safetensors.index.json"):
        file.unlink()
    return state


# Names as MobileVLM's published weights have them, from the class that each module is here.
MOBILE = {
    "LDPv2Projector": {"mlp.0": "mlp.mlp.0", "mlp.2": "mlp.mlp.2", "positions": "peg.peg.0"},
    "LDPProjector": {
        "mlp.0": "model.mlp.1", "mlp.2": "model.mlp.3",
        **{
            f"blocks.{n}.{ours}": f"model.mb_block.{n + 1}.block.{theirs}"
            for n in (0, 1)
            for ours, theirs in {
                "depthwise": "0.0", "depthwise_norm": "0.1", "excitation.fc1": "1.fc1", "excitation.fc2": "1.fc2",
                "pointwise": "2.0", "pointwise_norm": "2.1",
            }.items()
        },
    },
    "LinearProjector": {"model.0": ""},
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", MOBILE)
def test_projectors_are_known_by_their_names(tmp_path, name):
    """The weights of a projector of ours, by the published names, are read as that projector."""
    torch.manual_seed(1)
    cls = {"LDPv2Projector": LDPv2Projector, "LDPProjector": LDPProjector, "LinearProjector": LinearProjector}[name]
    made = cls(64, 32)
    table = {}
    for ours, value in made.state_dict().items():
        module, _, kind = ours.rpartition(".")
        table[".".join(filter(None, ["model.mm_projector", MOBILE[name][module], kind]))] = value
    torch.save(table, tmp_path / "mm_projector.bin")
    read = load_projector(tmp_path / "mm_projector.bin")
    assert type(read) is cls and (read.vision_hidden_size, read.llm_hidden_size) == (64, 32)
    features = torch.randn(2, 576, 64)
    assert torch.equal(read(features), made(features))


@torch.no_grad()
def test_a_projector_of_llavas_first_stage_on_a_language_model(plain, standins, tmp_path, capsys):
    tower = write_tower(tmp_path / "tower", plain)
    folder = tmp_path / "pretrain"
    folder.mkdir()
    state = renamed(plain.state(), LLAVA_NAMES)
    torch.save({n: v for n, v in state.items() if "mm_projector" in n}, folder / "mm_projector.bin")
    llm = tmp_path / "llm"
    LlamaForCausalLM(plain.model.config.text_config).save_pretrained(llm)
    write_weights(llm, {n.removeprefix("language_model."): v for n, v in plain.state().items() if "language" in n})
    for file in plain.folder.glob("tokenizer*"):
        shutil.copy(file, llm)
    template = tmp_path / "llava.jinja"
    template.write_text(TYPED_TEMPLATE)
    with pytest.raises(UsageError, match="does not name its image encoder"):
        load(llm, llava=folder, prompt_template=template)
    for path in (folder, folder / "mm_projector.bin"):
        check_same(load(llm, llava=path, visual_encoder=tower, prompt_template=template), plain.model, tower)
    said = {"mm_vision_tower": "../tower", "mm_hidden_size": 64, "image_aspect_ratio": "square"}
    (folder / "config.json").write_text(json.dumps(said))
    check_same(load(llm, llava=folder, prompt_template=template), plain.model, tower)
    assert "LLaVA projector; prompts by llava." in capsys.readouterr().err
    with pytest.raises(UsageError, match="is a LLaVA projector, not a language model"):
        load(folder)


def spoiled(folder: Path, **said) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    return folder


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end = True"),
        ({"mm_resampler_type": "qformer"}, "mm_resampler_type = qformer"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature = cls"),
        ({"mm_vision_select_layer": [-2, -1]}, "reads one layer"),
        ({"model_type": "llava_no_such"}, "'no_such', cannot be read"),
        ({"image_aspect_ratio": "anyres_max_9"}, "anyres_max_9"),
        ({"mm_vision_tower": "/no/such/tower"}, "--visual-encoder"),
        ({"hidden_size": 128}, "has shape"),
    ],
)
def test_what_vlmtool_does_not_compute_is_refused_by_name(plain, tmp_path, said, message):
    folder = make_llava_layout(tmp_path / "llava", plain, write_tower(tmp_path / "tower", plain))
    with pytest.raises((CheckpointError, UsageError), match=message) as caught:
        load(spoiled(folder, **said), prompt_template="vicuna")
    assert len(str(caught.value).splitlines()) <= 3


def test_a_weight_without_place_and_a_missing_one_are_told(plain, tmp_path):
    folder = make_llava_layout(tmp_path / "llava", plain, write_tower(tmp_path / "tower", plain))
    state = folder_state(folder)
    write_weights(folder, state | {"model.vision_resampler.x": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"no place for 'model.vision_resampler.x' of a LLaVA model"):
        load(folder, prompt_template="vicuna")
    write_weights(folder, {name: value for name, value in state.items() if name != "model.norm.weight"})
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' is not there"):
        load(folder, prompt_template="vicuna")


def test_a_whole_model_keeps_its_own_parts_and_says_so(plain, standins, tmp_path, capsys):
    load(standins.llama, llava=plain.folder, visual_encoder=standins.clip, visual_select_layer=-1)
    said = capsys.readouterr().err
    assert f"'{standins.llama}' is not the language model of {plain.folder}; its own is used." in said
    assert "--visual-encoder" in said and "--visual-select-layer" in said


def test_other_kinds_are_refused_by_their_names(plain, standins, tmp_path):
    make_blip2(tmp_path / "blip2")
    with pytest.raises(UsageError, match="BLIP-2 model of transformers"):
        load(tmp_path / "blip2")
    with pytest.raises(UsageError, match="BLIP-2 model of transformers"):
        load(standins.llama, llava=tmp_path / "blip2")
    torch.save({"meta": {"cfg": "x"}, "state_dict": {"projector.x": torch.ones(1)}}, tmp_path / "epoch_1.pth")
    with pytest.raises(UsageError, match="is an XTuner checkpoint, not a model folder"):
        load(standins.llama, llava=tmp_path / "epoch_1.pth")
    model = make_hf_llava(tmp_path / "quantised")
    with pytest.raises(CheckpointError, match="quantised already"):
        load(spoiled(model.folder, quantization_config={"load_in_4bit": True}))
