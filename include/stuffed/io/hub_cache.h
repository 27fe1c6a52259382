// Models by the name of their repository, as Hugging Face's tools keep them on this machine. Never
// goes to the network.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

namespace stuffed::io {

/// What `given` names: itself if there is such a path; else the snapshot of a repository
/// OWNER/NAME[@REVISION] in the cache, REVISION being a branch, a tag or a commit (its first seven
/// digits or more), "main" if it is not given; else itself, for a message that says so.
/// Where: $HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else
/// ~/.cache/huggingface/hub. Source: huggingface_hub's documentation of its cache.
/// Errors  Input, naming `option`, if OWNER/NAME can only be a repository and is not there: where it
///         was looked for, and the command that brings it
std::filesystem::path find_checkpoint(const std::string& given, const std::string& option);

/// A snapshot in the cache, told by its path.
struct HubSnapshot {
  std::string name, commit;  // "owner/name", 40 hexadecimal digits
};

/// Of a snapshot's folder or a file in it; nullopt for any other path.
std::optional<HubSnapshot> snapshot_of(const std::filesystem::path& path);

/// Why a file that a snapshot lacks is not there, for the end of a message: the repository has none,
/// as was found when somebody asked for it, or nobody asked, and then the command that brings it.
/// "" for a folder that is no snapshot.
std::string why_absent(const std::filesystem::path& folder, const std::string& file);

}  // namespace stuffed::io
