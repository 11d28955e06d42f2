"""One stream for several tasks: tokens that imitate several experts at once."""
