// Results in the files of the code published with arXiv:2410.07145, for its plot scripts.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace stuffed::eval {

struct PaperOptions {
  std::filesystem::path per_token = {};  // the losses' file; empty: the one the journal names
  int64_t drop_chunk_targets = 0;        // leave out the first target of every chunk; 0: none
  bool partial = false;                  // trials of a journal that is not finished
  bool overwrite = false;                // into a folder that holds something
};

struct PaperFiles {
  std::vector<std::filesystem::path> written;
  std::vector<std::string> warnings;  // what is missing from the files, a sentence each
};

/// Of a passkey run: FOLDER/args.json and FOLDER/passkey/preds_<length>.jsonl, one line per trial
/// in the order of depths, with that code's fields (`idx` a string, `relative_postion` spelt so:
/// where the needle is; with PasskeyProtocol::PaperCode on its own grid the depth asked for, as
/// there).
///
/// Of a ppl-by-length run with --per-token: FOLDER/result_per_token/<model>/<text>/args.json and
/// per_token_loss.pt, [documents,T-1] f32 in nats, column j scoring token j+1. That code feeds
/// chunks of 131,072 tokens and scores no chunk's first token: with `drop_chunk_targets` neither
/// does the file.
///
/// A passkey journal that is not finished gives the files of what it holds, and a warning, if `partial`
/// is given.
/// Errors  Input if `journal` holds neither, is not finished, or its losses are missing or another
/// run's; Usage if one of them would be overwritten; Output if a file cannot be written, or its
/// folder holds something and `overwrite` is not given
PaperFiles export_paper(const std::filesystem::path& journal,
                        const std::filesystem::path& folder,
                        const PaperOptions& options = {});

}  // namespace stuffed::eval
