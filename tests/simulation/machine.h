#pragma once

/* It was switched on again: another boot id from now on. */
void machine_boots(void);
