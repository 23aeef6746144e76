#pragma once

/* Text for people: sizes, and tables that come a row at a time. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIZE_TEXT_BYTES = 32 };

/* "1.2 MiB", "512 B". */
void text_size(uint64_t bytes, char text[static SIZE_TEXT_BYTES]);

enum { TABLE_COLUMNS_MAX = 12, TABLE_BATCH_ROWS = 64 };

struct table_column {
    const char *title;
    bool right; /* aligned to the right at a terminal */
    bool alarm; /* shown in red where colour is allowed */
};

/* At a terminal, rows are held back in batches to find the widths of the columns, so that memory
 * stays flat however many rows come. Otherwise fields are separated by tabs, after a line of
 * titles. */
struct table {
    const struct table_column *columns;
    unsigned column_count;
    bool aligned, colour;
    bool titles_done;
    unsigned row_count, cell_count; /* complete rows held back; cells of the row at work */
    size_t widths[TABLE_COLUMNS_MAX];
    char *cells[TABLE_BATCH_ROWS][TABLE_COLUMNS_MAX];
};

/* `columns` must outlive the table. */
void table_begin(struct table *, const struct table_column *columns, unsigned column_count,
                 bool aligned, bool colour);
/* The next cell; the row is complete when it has all of its columns. */
void table_bytes(struct table *, const void *bytes, size_t len); /* escaped */
void table_text(struct table *, const char *text);               /* as it stands */
void table_number(struct table *, uint64_t number);
/* Shows the rows that are held back. */
void table_flush(struct table *);
void table_end(struct table *);
