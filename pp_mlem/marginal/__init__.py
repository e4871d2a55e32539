"""log Z of a whole program: the steps that take latents out, one file each."""
