#pragma once

enum { WORD_MAX = 63 }; /* characters of a word that are looked at */

/* How far apart two words are: insertions, deletions, replacements and swaps of neighbours.
 * Words longer than 63 bytes are compared by their first 63. */
unsigned word_distance(const char *a, const char *b);
