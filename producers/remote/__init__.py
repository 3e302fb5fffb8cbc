"""Remote folders: the objects below a URL of any store that fsspec reaches, as documents."""
