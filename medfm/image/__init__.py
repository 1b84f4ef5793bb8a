"""Arrays in, arrays out: geometry and intensity of images, with no notion of files or networks."""
