"""What was answered inside a step, recorded so that a later attempt need not ask again."""
