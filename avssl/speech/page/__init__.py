"""The lip-reading page: a clip goes in, words with their times come out."""
