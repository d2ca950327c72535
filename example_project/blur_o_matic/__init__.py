"""Blur-O-Matic: a picture goes through a durable chain of works, as in Android's WorkManager codelab."""
