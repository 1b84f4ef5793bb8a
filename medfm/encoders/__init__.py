"""x -> pyramid: networks that read a scan."""
