// What a passkey run's records say together.
#pragma once
#include "stuffed/eval/passkey.h"

namespace stuffed::eval {

/// Appends the summaries that are missing; every trial must have its record.
void append_passkey_summaries(const std::vector<PasskeyTrial>& trials,
                              const PasskeyOptions& options,
                              io::Journal& journal);

}  // namespace stuffed::eval
