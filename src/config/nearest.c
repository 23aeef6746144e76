/* Which option somebody may have meant. */

#include <stdio.h>
#include <string.h>

#include "base/word.h"
#include "config/table.h"

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
        unsigned distance = word_distance(option->key, key);
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
        unsigned distance = word_distance(candidate, path);
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
        if (word_distance(config_table[i].section, section) <
            word_distance(nearest->section, section))
            nearest = &config_table[i];
    return nearest->section;
}
