"""pyramid -> answer: task heads on the shared encoder."""
