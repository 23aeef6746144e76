#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "base/assert.h"
#include "output.h"
#include "json/escape.h"

/* A longer cell moves what is behind it in its own row alone. */
enum { ALIGNED_MAX = 48 };

void text_size(uint64_t bytes, char text[static SIZE_TEXT_BYTES])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(text, SIZE_TEXT_BYTES, "%" PRIu64 " B", bytes);
        return;
    }
    double size = (double)bytes / 1024;
    unsigned unit = 0;
    /* 1023.95 would be printed as 1024.0. */
    for (; size >= 1023.95; unit++)
        size /= 1024;
    snprintf(text, SIZE_TEXT_BYTES, "%.1f %s", size, units[unit]);
}

/* Columns on a terminal. */
static size_t width(const char *text)
{
    size_t columns = 0;
    mbstate_t state = {0};
    for (wchar_t wide; *text != '\0';) {
        size_t used = mbrtowc(&wide, text, strlen(text), &state);
        if (used == (size_t)-1 || used == (size_t)-2)
            return columns + strlen(text);
        int cells = wcwidth(wide);
        columns += cells > 0 ? (size_t)cells : 0;
        text += used;
    }
    return columns;
}

void table_begin(struct table *table, const struct table_column *columns, unsigned column_count,
                 bool aligned, bool colour)
{
    ENSURE(column_count <= TABLE_COLUMNS_MAX);
    *table = (struct table){
        .columns = columns, .column_count = column_count, .aligned = aligned, .colour = colour};
    for (unsigned i = 0; i < column_count; i++)
        table->widths[i] = strlen(columns[i].title);
    if (aligned)
        return; /* the titles come with the first rows, when the widths are known */
    for (unsigned i = 0; i < column_count; i++)
        output_format("%s%c", columns[i].title, i + 1 < column_count ? '\t' : '\n');
}

static void put_aligned(const struct table *table, unsigned column, const char *text)
{
    bool last = column + 1 == table->column_count;
    size_t columns = width(text);
    int pad = (int)(table->widths[column] > columns ? table->widths[column] - columns : 0);
    if (table->columns[column].right)
        output_format("%*s%s%s", pad, "", text, last ? "" : "  ");
    else
        output_format("%s%*s%s", text, last ? 0 : pad, "", last ? "" : "  ");
}

static void put_row(const struct table *table, char *const *cells)
{
    for (unsigned i = 0; i < table->column_count; i++) {
        bool red = table->colour && table->columns[i].alarm && strcmp(cells[i], "0") != 0;
        output_text(red ? "\033[31m" : "");
        put_aligned(table, i, cells[i]);
        output_text(red ? "\033[0m" : "");
    }
    output_text("\n");
}

static void put_titles(const struct table *table)
{
    output_text(table->colour ? "\033[1m" : "");
    for (unsigned i = 0; i < table->column_count; i++)
        put_aligned(table, i, table->columns[i].title);
    output_text(table->colour ? "\033[0m\n" : "\n");
}

static void put_batch(struct table *table)
{
    for (unsigned row = 0; row < table->row_count; row++) {
        for (unsigned i = 0; i < table->column_count; i++) {
            size_t columns = width(table->cells[row][i]);
            columns = columns < ALIGNED_MAX ? columns : ALIGNED_MAX;
            table->widths[i] = columns > table->widths[i] ? columns : table->widths[i];
        }
    }
    if (!table->titles_done && table->row_count > 0) {
        put_titles(table);
        table->titles_done = true;
    }
    for (unsigned row = 0; row < table->row_count; row++) {
        put_row(table, table->cells[row]);
        for (unsigned i = 0; i < table->column_count; i++)
            free(table->cells[row][i]);
    }
    table->row_count = 0;
}

/* Takes over `cell`. */
static void add_cell(struct table *table, char *cell)
{
    ENSURE(cell);
    bool last = table->cell_count + 1 == table->column_count;
    if (!table->aligned) {
        output_text(cell);
        output_text(last ? "\n" : "\t");
        free(cell);
    } else {
        table->cells[table->row_count][table->cell_count] = cell;
        table->row_count += last;
        if (table->row_count == TABLE_BATCH_ROWS)
            put_batch(table);
    }
    table->cell_count = last ? 0 : table->cell_count + 1;
}

void table_bytes(struct table *table, const void *bytes, size_t len)
{
    add_cell(table, escape_text(bytes, len));
}

void table_text(struct table *table, const char *text)
{
    add_cell(table, strdup(text));
}

void table_number(struct table *table, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    table_text(table, text);
}

void table_flush(struct table *table)
{
    put_batch(table);
}

void table_end(struct table *table)
{
    ENSURE(table->cell_count == 0);
    put_batch(table);
}
