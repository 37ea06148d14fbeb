"""The tensors of a published checkpoint of each architecture, written by hand for one layer in the tiny sizes.

The names stand in the index files of internlm/internlm-7b, internlm/internlm2-7b, Qwen/Qwen-7B, THUDM/chatglm3-6b and
XiaoduoAILab/Xmodel_LM on the Hugging Face Hub.
"""

LLAMA_LAYER = "model.layers.0."

PUBLISHED: dict[str, dict[str, tuple[int, ...]]] = {
    "internlm": {  # 4 heads of 32
        "model.embed_tokens.weight": (384, 128),
        LLAMA_LAYER + "self_attn.q_proj.weight": (128, 128),
        LLAMA_LAYER + "self_attn.q_proj.bias": (128,),
        LLAMA_LAYER + "self_attn.k_proj.weight": (128, 128),
        LLAMA_LAYER + "self_attn.k_proj.bias": (128,),
        LLAMA_LAYER + "self_attn.v_proj.weight": (128, 128),
        LLAMA_LAYER + "self_attn.v_proj.bias": (128,),
        LLAMA_LAYER + "self_attn.o_proj.weight": (128, 128),
        LLAMA_LAYER + "self_attn.o_proj.bias": (128,),
        LLAMA_LAYER + "mlp.gate_proj.weight": (192, 128),
        LLAMA_LAYER + "mlp.up_proj.weight": (192, 128),
        LLAMA_LAYER + "mlp.down_proj.weight": (128, 192),
        LLAMA_LAYER + "input_layernorm.weight": (128,),
        LLAMA_LAYER + "post_attention_layernorm.weight": (128,),
        "model.norm.weight": (128,),
        "lm_head.weight": (384, 128),
    },
    "internlm2": {  # 8 heads of 16 in 2 groups: 2 * (4 + 2) * 16 = 192 rows
        "model.tok_embeddings.weight": (384, 128),
        "model.layers.0.attention.wqkv.weight": (192, 128),
        "model.layers.0.attention.wo.weight": (128, 128),
        "model.layers.0.feed_forward.w1.weight": (192, 128),
        "model.layers.0.feed_forward.w3.weight": (192, 128),
        "model.layers.0.feed_forward.w2.weight": (128, 192),
        "model.layers.0.attention_norm.weight": (128,),
        "model.layers.0.ffn_norm.weight": (128,),
        "model.norm.weight": (128,),
        "output.weight": (384, 128),
    },
    "qwen": {  # 4 heads of 32
        "transformer.wte.weight": (384, 128),
        "transformer.h.0.ln_1.weight": (128,),
        "transformer.h.0.attn.c_attn.weight": (384, 128),
        "transformer.h.0.attn.c_attn.bias": (384,),
        "transformer.h.0.attn.c_proj.weight": (128, 128),
        "transformer.h.0.ln_2.weight": (128,),
        "transformer.h.0.mlp.w1.weight": (192, 128),
        "transformer.h.0.mlp.w2.weight": (192, 128),
        "transformer.h.0.mlp.c_proj.weight": (128, 192),
        "transformer.ln_f.weight": (128,),
        "lm_head.weight": (384, 128),
    },
    "chatglm": {  # 8 heads of 16, 2 groups: (8 + 2 + 2) * 16 = 192 rows
        "transformer.embedding.word_embeddings.weight": (384, 128),
        "transformer.rotary_pos_emb.inv_freq": (4,),
        "transformer.encoder.layers.0.input_layernorm.weight": (128,),
        "transformer.encoder.layers.0.self_attention.query_key_value.weight": (192, 128),
        "transformer.encoder.layers.0.self_attention.query_key_value.bias": (192,),
        "transformer.encoder.layers.0.self_attention.dense.weight": (128, 128),
        "transformer.encoder.layers.0.post_attention_layernorm.weight": (128,),
        "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight": (384, 128),
        "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight": (128, 192),
        "transformer.encoder.final_layernorm.weight": (128,),
        "transformer.output_layer.weight": (384, 128),
    },
    "xmodel": {  # 16 heads of 16, 2 of keys and values
        "model.embed_tokens.weight": (384, 256),
        LLAMA_LAYER + "self_attn.q_proj.weight": (256, 256),
        LLAMA_LAYER + "self_attn.k_proj.weight": (32, 256),
        LLAMA_LAYER + "self_attn.v_proj.weight": (32, 256),
        LLAMA_LAYER + "self_attn.o_proj.weight": (256, 256),
        LLAMA_LAYER + "mlp.gate_proj.weight": (320, 256),
        LLAMA_LAYER + "mlp.up_proj.weight": (320, 256),
        LLAMA_LAYER + "mlp.down_proj.weight": (256, 320),
        LLAMA_LAYER + "input_layernorm.weight": (256,),
        LLAMA_LAYER + "post_attention_layernorm.weight": (256,),
        "model.norm.weight": (256,),
        "lm_head.weight": (384, 256),
    },
}

# Shards in .bin form only: frequencies, half as many as a head has dimensions.
BIN_BUFFERS: dict[str, dict[str, tuple[int, ...]]] = {
    "internlm": {LLAMA_LAYER + "self_attn.rotary_emb.inv_freq": (16,)},
    "xmodel": {LLAMA_LAYER + "self_attn.rotary_emb.inv_freq": (8,)},
}

# What a map needs of config.json, and the values that are the architecture's own.
CONFIG_FIELDS: dict[str, dict[str, object]] = {
    "internlm": {
        "model_type": "internlm",
        "architectures": ["InternLMForCausalLM"],
        "bias": True,
        "rms_norm_eps": 1e-6,
        "rotary": {"base": 10000, "type": "dynamic"},
    },
    "internlm2": {
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "bias": False,
        "num_key_value_heads": 2,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "rms_norm_eps": 1e-5,
    },
    "qwen": {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "intermediate_size": 384,
        "kv_channels": 32,
        "no_bias": True,
        "rotary_pct": 1.0,
        "rotary_emb_base": 10000,
        "layer_norm_epsilon": 1e-6,
        "seq_length": 1024,
        "max_position_embeddings": 4096,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
    },
    "chatglm": {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "kv_channels": 16,
        "ffn_hidden_size": 192,
        "padded_vocab_size": 384,
        "num_layers": 1,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "post_layer_norm": True,
        "apply_residual_connection_post_layernorm": False,
        "layernorm_epsilon": 1e-5,
        "seq_length": 1024,
    },
    "xmodel": {
        "model_type": "xmodel",
        "architectures": ["XModelForCausalLM"],
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}
