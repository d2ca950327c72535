"""A small Django project whose views enqueue durable works.

Its app is made where Django loads its models: pytest imports this package, and must not become its process.
"""
