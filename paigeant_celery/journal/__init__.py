"""What was answered inside a step, recorded so that a later attempt does not have to ask again."""
