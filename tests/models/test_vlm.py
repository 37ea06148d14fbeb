"""The composed model against Hugging Face's LLaVA, and against the definition of its loss."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlavaConfig, LlavaForConditionalGeneration

from tests.models.conftest import IMAGE_TOKEN, VOCABULARY, batch, clip, llama, siglip
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.llm import head_at
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.splice import splice_image_embeds
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.pixels import Pixels


def hf_llava(vlm: VisionLanguageModel) -> LlavaForConditionalGeneration:
    """Hugging Face's class with the same weights; its vocabulary is padded so that the image token fits."""
    text = llama().config
    text.vocab_size = IMAGE_TOKEN + 1
    config = LlavaConfig(
        vision_config=clip().config, text_config=text, image_token_index=IMAGE_TOKEN, vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    model.model.vision_tower.load_state_dict(clip().state_dict())
    model.model.multi_modal_projector.linear_1.load_state_dict(vlm.projector.model[0].state_dict())
    model.model.multi_modal_projector.linear_2.load_state_dict(vlm.projector.model[2].state_dict())
    own = llama().state_dict()
    state = model.model.language_model.state_dict()
    for name in state:
        source = own[f"model.{name}"]
        state[name][: len(source)] = source
    model.model.language_model.load_state_dict(state)
    with torch.no_grad():
        model.lm_head.weight[:VOCABULARY] = own["lm_head.weight"]
    return model


def test_logits_equal_hugging_faces_llava(vlm):
    vlm.eval()
    inputs = batch()
    mask = (inputs["labels"] != -100) | (inputs["input_ids"] != 0)
    with torch.no_grad():
        embeds = vlm.embed(inputs["input_ids"], vlm.encode_images(inputs["pixels"]))
        ours = vlm.llm(inputs_embeds=embeds).logits
        theirs = hf_llava(vlm)(
            input_ids=inputs["input_ids"], pixel_values=inputs["pixels"].values, attention_mask=mask.long()
        ).logits
    torch.testing.assert_close(ours[mask], theirs[mask][:, :VOCABULARY], atol=1e-4, rtol=0)


def test_loss_is_the_sum_over_supervised_tokens(vlm):
    inputs = batch()
    with torch.no_grad():
        loss = vlm(**inputs)
        logits = hf_llava(vlm)(input_ids=inputs["input_ids"], pixel_values=inputs["pixels"].values).logits
        targets = inputs["labels"][:, 1:]
        expected = cross_entropy(logits[:, :-1, :VOCABULARY].flatten(0, 1), targets.flatten(), reduction="sum")
    assert int(loss.num_tokens) == 3 + 4 + 5
    torch.testing.assert_close(loss.total, expected, atol=1e-4, rtol=1e-5)


def test_padding_does_not_change_a_row(vlm):
    inputs = batch((1, 0, 2))
    alone = {
        "input_ids": inputs["input_ids"][:1, :10], "labels": inputs["labels"][:1, :10],
        "pixels": Pixels.one_view_each(inputs["pixels"].values[:1]),
    }  # fmt: skip
    others = {
        "input_ids": inputs["input_ids"][1:],
        "labels": inputs["labels"][1:],
        "pixels": Pixels.one_view_each(inputs["pixels"].values[1:]),
    }
    with torch.no_grad():
        parts = vlm(**alone).total + vlm(**others).total
        torch.testing.assert_close(vlm(**inputs).total, parts, atol=1e-5, rtol=1e-6)


def test_gradient_is_that_of_full_logits(vlm):
    inputs = batch()
    vlm(**inputs).total.backward()
    ours = vlm.projector.model[0].weight.grad.clone()
    vlm.zero_grad()
    embeds = vlm.embed(inputs["input_ids"], vlm.encode_images(inputs["pixels"]))
    logits = vlm.llm(inputs_embeds=embeds).logits
    cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), reduction="sum").backward()
    torch.testing.assert_close(ours, vlm.projector.model[0].weight.grad, atol=1e-5, rtol=1e-4)


def test_head_sees_the_wanted_positions_only():
    llm = llama()
    ids = torch.randint(0, VOCABULARY, (2, 5))
    positions = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 1, 0]], dtype=torch.bool)
    with torch.no_grad():
        full = llm(ids).logits
        with head_at(llm, positions):
            few = llm(ids).logits
        assert few.shape == (1, 3, VOCABULARY)
        torch.testing.assert_close(few[0], full[positions])
        assert llm(ids).logits.shape == full.shape  # the hook is gone


def test_text_only_batch_gives_every_trained_weight_a_gradient(vlm):
    vlm(**batch((0, 0))).total.backward()
    for name, parameter in vlm.projector.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_frozen_encoder_runs_without_autograd(vlm):
    seen = []
    vlm.vision_encoder.register_forward_hook(lambda *args: seen.append(args[-1]))
    pixels = batch()["pixels"]
    pixels.values.requires_grad_(True)
    vlm.encode_images(pixels)
    vlm.vision_encoder.requires_grad_(True)
    vlm.encode_images(pixels)
    assert [features[0].requires_grad for features in seen] == [False, True]


def test_clip_drops_cls_and_siglip_keeps_every_patch():
    pixels = batch()["pixels"]
    for model, kept in ((clip(), slice(1, None)), (siglip(), slice(None))):
        with torch.no_grad():
            whole = model(pixels.values, output_hidden_states=True).hidden_states
            for layer in (-1, -2, 1):
                encoder = VisionEncoder(type(model)(model.config).eval(), Reading(layer))
                encoder.model.load_state_dict(
                    {k: v for k, v in model.state_dict().items() if k in encoder.model.state_dict()}
                )
                (features,) = encoder(pixels)
                torch.testing.assert_close(features, whole[layer][:, kept])
                assert features.shape[1] == encoder.num_patches == 4


def test_select_layer_out_of_range_is_refused():
    from vlmtool.utils.errors import UsageError

    with pytest.raises(UsageError, match="has 3 blocks"):
        VisionEncoder(clip(), Reading(-9))


def test_lost_image_token_is_reported(vlm):
    inputs = batch((1,))
    inputs["input_ids"] = inputs["input_ids"][:, 1:]
    inputs["labels"] = inputs["labels"][:, 1:]
    with pytest.raises(ValueError, match="hold 3 image tokens, but 4 come from 1 image[.]"):
        vlm(**inputs)


def test_splice_puts_images_in_reading_order():
    text = torch.zeros(2, 3, 1)
    images = [torch.tensor([[1.0]]), torch.tensor([[2.0]])]
    is_image = torch.tensor([[False, True, False], [False, False, True]])
    assert splice_image_embeds(text, images, is_image).flatten().tolist() == [0, 1, 0, 0, 0, 2]
    assert not text.any()  # the input is not modified


def test_projector_keys_and_depth():
    assert sorted(MLPProjector(8, 16).state_dict()) == [
        "model.0.bias",
        "model.0.weight",
        "model.2.bias",
        "model.2.weight",
    ]
    assert sorted(MLPProjector(8, 16, depth=3, bias=False).state_dict()) == [f"model.{i}.weight" for i in (0, 2, 4)]
    assert MLPProjector(8, 16)(torch.zeros(2, 5, 8)).shape == (2, 5, 16)


def test_logits_are_the_only_tensor_of_their_size(vlm):
    class Made(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            kept.extend(one for one in tree_leaves(result) if isinstance(one, torch.Tensor))
            return result

    kept, inputs = [], batch()
    with Made():
        loss = vlm(**inputs)
        loss.total.backward()
    size = int(loss.num_tokens), vlm.llm.config.vocab_size
    logits = [one for one in kept if one.shape[-2:] == size]
    assert len({one.untyped_storage().data_ptr() for one in logits}) == 1


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_encoder_has_no_dropout(vlm, freeze):
    pixels = batch()["pixels"]
    for module in vlm.vision_encoder.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    vlm.vision_encoder.requires_grad_(not freeze)
    vlm.train()
    first, again = (torch.stack(vlm.encode_images(pixels)) for _ in range(2))
    assert torch.equal(first, again) == freeze
    assert vlm.training and vlm.llm.training and not vlm.eval().vision_encoder.training
