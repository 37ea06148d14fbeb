"""One generator for everybody: chat, evaluation, sample answers in training; and what a chat needs around it."""
