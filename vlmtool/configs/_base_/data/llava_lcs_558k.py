data = dict(
    path="data/llava_data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
    image_folder="data/llava_data/LLaVA-Pretrain/images",
    max_length=2048,
    image_position="front",
)
