"""Qdrant's behaviour that ingestq relies on, through qdrant-client.

The same tests ask the bundled engine and, if ``INGESTQ_TEST_QDRANT_URL`` names one, a real server.
They say what servers 1.18 and 1.19 do, which the bundled engine has to do as well. The model are
the congruence tests of qdrant-client. The tests use collections of their own, and delete them.
"""
