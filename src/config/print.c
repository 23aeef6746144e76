#include <string.h>

#include "config/config.h"
#include "config/table.h"
#include "config/value.h"

/* The example turns buffering on, for that is what the proxy is for; the default is 0 so that
 * nobody's disk is filled by surprise. */
static const char example_section[] = "pool", example_key[] = "publish_buffer_size";
static const char example_value[] = "100000";

static bool first_of_section(unsigned i)
{
    return i == 0 || strcmp(config_table[i - 1].section, config_table[i].section) != 0;
}

static void print_heading(unsigned i, FILE *out)
{
    if (first_of_section(i))
        fprintf(out, "%s[%s]\n", i > 0 ? "\n" : "", config_table[i].section);
}

void config_print(const struct config *config, FILE *out)
{
    for (unsigned i = 0; i < config_table_count; i++) {
        print_heading(i, out);
        fprintf(out, "%s = ", config_table[i].key);
        value_print(&config_table[i], config, out);
        fputc('\n', out);
    }
}

static void print_example_option(const struct config_option *option, FILE *out)
{
    const char *gap = option->fallback[0] ? " " : "";
    fprintf(out, "# %s%s\n", option->help, option->reloadable ? " (reloadable)" : "");
    if (strcmp(option->section, example_section) == 0 && strcmp(option->key, example_key) == 0)
        fprintf(out, "# The default is %s.\n%s = %s\n", option->fallback, option->key,
                example_value);
    else
        fprintf(out, "#%s =%s%s\n", option->key, gap, option->fallback);
}

void config_print_example(FILE *out)
{
    fputs("# Configuration of amqpbuf, see proxy.ini(5). What is commented out shows the default.\n"
          "# Durations take ms, s, m, h; sizes take KiB, MiB, GiB. SIGHUP reloads what is marked "
          "so.\n"
          "\n",
          out);
    for (unsigned i = 0; i < config_table_count; i++) {
        print_heading(i, out);
        if (!first_of_section(i))
            fputc('\n', out);
        print_example_option(&config_table[i], out);
    }
}
