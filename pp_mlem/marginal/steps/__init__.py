"""Steps take latents out of terms, one kind of structure each; one file each."""
