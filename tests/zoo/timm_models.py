"""Vision models of timm in tiny sizes: no weights are loaded."""

from __future__ import annotations

import warnings
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)

import zoo.torchvision_operators  # noqa: E402, F401  before timm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they import may be deprecated
    timm = pytest.importorskip("timm", reason="these models are those of timm", exc_type=ImportError)
    from timm.models import (
        convmixer,
        davit,
        densenet,
        efficientnet,
        gcvit,
        maxxvit,
        metaformer,
        mlp_mixer,
        mvitv2,
        nest,
        nfnet,
        resnet,
        volo,
    )  # fmt: skip

from zoo.entry import Family, values  # noqa: E402

MODELS = Family()
BATCH_NORM = {"modes": (False,)}


def named(name, size, *, refused="", modes=(True, False), **settings):
    MODELS.add(
        name.split("_patch")[0],
        lambda: timm.create_model(name, pretrained=False, num_classes=3, **settings),
        values(3, size, size), refused=refused, modes=modes,
    )  # fmt: skip


def made(name, build, size, *, refused="", modes=(True, False), **settings):
    MODELS.add(
        name, lambda: build(num_classes=3, **settings), values(3, size, size), refused=refused, modes=modes
    )  # fmt: skip


VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
WINDOWS = {
    "img_size": 16,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 8,
    "depths": (2, 1),
    "num_heads": (2, 2),
    "drop_path_rate": 0.0,
}
FOUR = {"embed_dims": (8, 8, 8, 16), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}

for _name in (
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224",
    "eva02_tiny_patch14_224", "cait_xxs24_224",
):  # fmt: skip
    named(_name, 16, **VIT)
named("convit_tiny", 16, **VIT, local_up_to_layer=1)
named("swin_tiny_patch4_window7_224", 16, **WINDOWS)
named("swinv2_tiny_window8_256", 16, **WINDOWS)
named("swinv2_cr_tiny_224", 16, **WINDOWS, modes=(False,))  # drops out in its network of positions
named("hiera_tiny_224", 32, img_size=32, embed_dim=8, num_heads=1, stages=(1, 1), q_pool=1)
named("pvt_v2_b0", 32, **FOUR)
named("twins_pcpvt_small", 32, img_size=32, **FOUR)
named("twins_svt_small", 64, img_size=64, **FOUR)
named("visformer_tiny", 32, img_size=32, init_channels=8, embed_dim=16, depth=(1, 1, 1), num_heads=2, **BATCH_NORM)
named("pit_ti_224", 32, img_size=32, patch_size=8, stride=4, base_dims=(4, 4, 4), depth=(1, 1, 1), heads=(2, 2, 2))
named("tnt_s_patch16_224", 32, img_size=32, patch_size=16, embed_dim=16, inner_dim=8, depth=1, num_heads_inner=2,
      num_heads_outer=2)  # fmt: skip
named("convnext_atto", 32, depths=(1, 1, 1, 1), dims=(4, 4, 8, 8))
named("convnextv2_atto", 32, depths=(1, 1, 1, 1), dims=(4, 4, 8, 8))
named("inception_next_tiny", 32, depths=(1, 1), dims=(8, 16), **BATCH_NORM)
named("mambaout_femto", 32, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
named("fastvit_t8", 32, layers=(1, 1, 1, 1), embed_dims=(8, 8, 8, 16), **BATCH_NORM)
named("swiftformer_xs", 32, layers=(1, 1, 1, 1), embed_dims=(8, 8, 8, 16), **BATCH_NORM)
named("edgenext_xx_small", 32, dims=(8, 16, 16, 16), depths=(1, 2, 1, 1))
named(
    "efficientvit_b0",
    32,
    widths=(8, 8, 8, 8, 16),
    depths=(1, 1, 1, 1, 1),
    head_dim=8,
    head_widths=(16, 16),
    **BATCH_NORM,
)
named("sequencer2d_s", 32, img_size=32, layers=(1, 1, 1, 1), embed_dims=(8, 8, 8, 8), hidden_sizes=(4, 4, 4, 4))
made("Mixer", mlp_mixer.MlpMixer, 16, img_size=16, patch_size=8, num_blocks=2, embed_dim=8)
made("gMLP", mlp_mixer.MlpMixer, 16, img_size=16, patch_size=8, num_blocks=2, embed_dim=8,
     mlp_ratio=4, block_layer=mlp_mixer.SpatialGatingBlock, mlp_layer=mlp_mixer.GatedMlp)  # fmt: skip
made("ResMLP", mlp_mixer.MlpMixer, 16, img_size=16, patch_size=8, num_blocks=2, embed_dim=8,
     mlp_ratio=4, block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine)  # fmt: skip
made("PoolFormer", metaformer.MetaFormer, 32, depths=(1, 1), dims=(8, 8), res_scale_init_values=(None, None),
     use_mlp_head=False, norm_layers=metaformer.GroupNorm1)  # fmt: skip
made("CAFormer", metaformer.MetaFormer, 32, depths=(1, 1), dims=(8, 32), res_scale_init_values=(None, 1.0),
     token_mixers=[metaformer.SepConv, metaformer.Attention],
     norm_layers=[metaformer.LayerNorm2dNoBias, metaformer.LayerNormNoBias])  # fmt: skip
made("MaxViT", lambda num_classes: maxxvit.MaxxVit(
    maxxvit.MaxxVitCfg(embed_dim=(8, 8), depths=(1, 1), block_type=("M", "M"), stem_width=8,
                       transformer_cfg=maxxvit.MaxxVitTransformerCfg(dim_head=4, window_size=(4, 4), grid_size=(4, 4))),
    img_size=32, num_classes=num_classes), 32, **BATCH_NORM)  # fmt: skip
made("CoAtNet", lambda num_classes: maxxvit.MaxxVit(
    maxxvit.MaxxVitCfg(embed_dim=(8, 8), depths=(1, 1), block_type=("C", "T"), stem_width=8,
                       transformer_cfg=maxxvit.MaxxVitTransformerCfg(dim_head=4, rel_pos_type="mlp", rel_pos_dim=6)),
    img_size=32, num_classes=num_classes), 32, **BATCH_NORM)  # fmt: skip
made("DaViT", davit.DaVit, 32, depths=(1, 1), embed_dims=(8, 8), num_heads=(2, 2), window_size=3)
made("MViTv2", lambda num_classes: mvitv2.MultiScaleVit(
    mvitv2.MultiScaleVitCfg(depths=(1, 1), embed_dim=8, num_heads=1), img_size=(32, 32), num_classes=num_classes),
     32)  # fmt: skip
made("NesT", nest.Nest, 16, img_size=16, embed_dims=(8, 8), num_levels=2, num_heads=(2, 2), depths=(1, 1),
     drop_path_rate=0.0, patch_size=2)  # fmt: skip
made("GCViT", gcvit.GlobalContextVit, 32, img_size=32, window_size=(4, 4), window_ratio=(8, 8), embed_dim=8,
     depths=(1, 1), num_heads=(2, 2))  # fmt: skip
made("VOLO", volo.VOLO, 32, layers=(1, 1), img_size=32, embed_dims=(8, 8), num_heads=(2, 2), stem_hidden_dim=8,
     downsamples=(True, False), outlook_attention=(True, False), use_aux_head=False, post_layers=("ca",),
     **BATCH_NORM)  # fmt: skip
made("ConvMixer", convmixer.ConvMixer, 16, dim=8, depth=2, kernel_size=3, patch_size=4, **BATCH_NORM)
made("DenseNet", densenet.DenseNet, 32, growth_rate=4, block_config=(1, 1), **BATCH_NORM)
made("ResNet", resnet.ResNet, 32, block=resnet.BasicBlock, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), **BATCH_NORM)
made("ResNet, bottlenecks", resnet.ResNet, 32, block=resnet.Bottleneck, layers=(1, 1, 1, 1), channels=(4, 4, 4, 4),
     base_width=64, stem_type="deep", stem_width=4, avg_down=True, **BATCH_NORM)  # fmt: skip
made("NFNet", lambda num_classes: nfnet.NormFreeNet(
    nfnet.NfCfg(depths=(1, 1), channels=(16, 16), stem_type="3x3", group_size=8, attn_layer="se", attn_kwargs={},
                extra_conv=True),
    num_classes=num_classes, drop_path_rate=0.0), 32)  # fmt: skip


def of_stages(*stages, **settings):
    """A model of timm's builder of efficient networks, a few stages."""
    from timm.models._efficientnet_builder import decode_arch_def

    return partial(
        efficientnet.EfficientNet, block_args=decode_arch_def([[s] for s in stages]), num_features=16, stem_size=8,
        **settings,
    )  # fmt: skip


made("EfficientNet", of_stages("ds_r1_k3_s1_e1_c8_se0.25", "ir_r1_k3_s2_e4_c8_se0.25", act_layer=torch.nn.SiLU), 16,
     **BATCH_NORM)  # fmt: skip
made("MobileNetV2", of_stages("ds_r1_k3_s1_c8", "ir_r2_k3_s2_e4_c8"), 16, **BATCH_NORM)
made("EfficientNet without batch normalisation", of_stages(
    "ir_r2_k3_s2_e4_c8_se0.25", norm_layer=timm.layers.GroupNorm1), 16)  # fmt: skip
