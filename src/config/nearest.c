/* Which option somebody may have meant. */

#include <stdio.h>
#include <string.h>

#include "config/table.h"

enum { WORD_MAX = 63 };

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

unsigned config_distance(const char *a, const char *b)
{
    size_t rows = strnlen(a, WORD_MAX), columns = strnlen(b, WORD_MAX);
    unsigned cost[WORD_MAX + 1][WORD_MAX + 1];
    for (unsigned i = 0; i <= rows; i++)
        cost[i][0] = i;
    for (unsigned j = 0; j <= columns; j++)
        cost[0][j] = j;
    for (size_t i = 1; i <= rows; i++) {
        for (size_t j = 1; j <= columns; j++) {
            unsigned replaced = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            cost[i][j] = least(replaced, least(cost[i - 1][j], cost[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                cost[i][j] = least(cost[i][j], cost[i - 2][j - 2] + 1);
        }
    }
    return cost[rows][columns];
}

const struct config_option *config_option_near(const char *section, const char *key)
{
    const struct config_option *nearest = config_option_find(section, key);
    unsigned nearest_distance = 0;
    if (nearest)
        return nearest;
    for (unsigned i = 0; i < config_table_count; i++) {
        const struct config_option *option = &config_table[i];
        if (strcmp(option->key, key) == 0)
            return option;
        if (strcmp(option->section, section) != 0)
            continue;
        unsigned distance = config_distance(option->key, key);
        if (!nearest || distance < nearest_distance) {
            nearest = option;
            nearest_distance = distance;
        }
    }
    return nearest;
}

const struct config_option *config_option_near_path(const char *path)
{
    const struct config_option *nearest = NULL;
    unsigned nearest_distance = 0;
    char section[WORD_MAX + 1];
    snprintf(section, sizeof section, "%.*s", (int)strcspn(path, "."), path);
    if (config_section_known(section) && path[strlen(section)] == '.')
        return config_option_near(section, path + strlen(section) + 1);
    for (unsigned i = 0; i < config_table_count; i++) {
        char candidate[WORD_MAX + 1];
        snprintf(candidate, sizeof candidate, "%s.%s", config_table[i].section,
                 config_table[i].key);
        unsigned distance = config_distance(candidate, path);
        if (!nearest || distance < nearest_distance) {
            nearest = &config_table[i];
            nearest_distance = distance;
        }
    }
    return nearest;
}

const char *config_section_near(const char *section)
{
    const struct config_option *nearest = &config_table[0];
    for (unsigned i = 1; i < config_table_count; i++)
        if (config_distance(config_table[i].section, section) <
            config_distance(nearest->section, section))
            nearest = &config_table[i];
    return nearest->section;
}
