"""Networks as small as they come, for tests of what is done with them."""

from cm3leon_jax.models import vqgan

VQGAN = vqgan.VqganConfig(
    image_size=16,
    base_channels=8,
    multipliers=(1, 2),
    encoder_kernels=(3, 3),
    decoder_kernels=(3, 3),
    num_res_blocks=1,
    attention_sizes=(),
    use_mid_block=False,
    latent_channels=8,
    code_dim=4,
    codebook_size=16,
    num_groups=4,
)

# A code is made from a patch of 4 x 4 pixels alone: compiles and trains in no time.
PATCHES = vqgan.VqganConfig(
    image_size=16,
    patch_size=4,
    base_channels=16,
    multipliers=(1,),
    encoder_kernels=(1,),
    decoder_kernels=(1,),
    num_res_blocks=1,
    attention_sizes=(),
    use_mid_block=False,
    use_mid_attention=False,
    latent_channels=8,
    code_dim=4,
    codebook_size=16,
    norm="position",
)
