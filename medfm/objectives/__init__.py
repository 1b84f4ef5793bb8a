"""batch -> {"loss": ...}: what is learned, as modules that hold the trained parts."""
