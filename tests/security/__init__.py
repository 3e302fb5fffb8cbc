"""Attacks that no longer work: each test is one that did."""
